/** Finds the tensor at which a training stopped being a number. */
import { InfinityError } from '../errors.js';
import { sumSquares } from '../ops/optim.js';
import type { Tensor } from '../tensor.js';

/** A tensor that holds something else than numbers, and how many of those that were looked at do. */
export interface NotFinite {
  readonly name: string;
  readonly others: number;
}

/** The names whose sum is not finite. @param sums [n], one for each name */
export async function notFinite(names: readonly string[], sums: Tensor): Promise<string[]> {
  const values = await sums.readFloats();
  return names.filter((_, i) => !Number.isFinite(values[i]!));
}

/**
 * Refuses weights that cannot be trained: every loss would be NaN, wherever they come from.
 * @param origin where they come from, for the message
 * @throws InfinityError NUMERICAL naming the first
 */
export async function checkWeights(weights: Iterable<[string, Tensor]>, origin: string): Promise<void> {
  const byName = new Map(weights);
  const sums = sumSquares([...byName.values()]);
  const suspects = await notFinite([...byName.keys()], sums).finally(() => sums.dispose());
  for (const name of suspects) {
    // Squares of large numbers overflow before the numbers do.
    if ((await byName.get(name)!.readFloats()).every(Number.isFinite)) continue;
    throw new InfinityError('NUMERICAL', `Weight '${name}' of ${origin} holds values that are not finite.`, {
      value: name,
      fields: { tensor: name },
      cure: 'Start from other weights.',
    });
  }
}
