/** Finds the tensor at which a training stopped being a number. */
import { InfinityError } from '../errors.js';
import { sumSquares } from '../ops/optim.js';
import type { Tensor } from '../tensor.js';

/** A tensor that holds something else than numbers, and how many of those that were looked at do. */
export interface NotFinite {
  readonly name: string;
  readonly others: number;
}

/** The first of a list of named sums whose value is not finite. */
export async function firstNotFinite(
  sums: readonly (readonly [name: string, sum: Tensor])[],
): Promise<NotFinite | undefined> {
  const values = await Promise.all(sums.map(async ([, sum]) => (await sum.readFloats())[0]!));
  const bad = sums.filter((_, i) => !Number.isFinite(values[i]!));
  return bad.length === 0 ? undefined : { name: bad[0]![0], others: bad.length - 1 };
}

/**
 * Refuses weights that cannot be trained: every loss would be NaN, wherever they come from.
 * @param origin where they come from, for the message
 * @throws InfinityError NUMERICAL naming the first
 */
export async function checkWeights(weights: Iterable<[string, Tensor]>, origin: string): Promise<void> {
  for (const [name, weight] of weights) {
    const sum = sumSquares(weight);
    const [value] = await sum.readFloats();
    sum.dispose();
    // Squares of large numbers overflow before the numbers do.
    if (Number.isFinite(value!) || (await weight.readFloats()).every(Number.isFinite)) continue;
    throw new InfinityError('NUMERICAL', `Weight '${name}' of ${origin} holds values that are not finite.`, {
      value: name,
      fields: { tensor: name },
      cure: 'Start from other weights.',
    });
  }
}
