/** What to say when weights and a network's configuration do not belong together. */
import { InfinityError } from '../errors.js';
import type { Shape } from '../tensor.js';

/** A tensor that is missing, unknown or of another shape. */
export interface Mismatch {
  readonly tensor: string;
  /** The configuration's option that decides it. */
  readonly option: string | undefined;
  /** Undefined where the network has no such tensor. */
  readonly expected: Shape | undefined;
  /** Undefined where the weights have none; text for a tensor that holds no weights. */
  readonly found: Shape | string | undefined;
}

/** More lines than this are counted, not listed. */
const MAX_LINES = 6;

const text = (shape: Mismatch['found']): string =>
  typeof shape === 'string' ? shape : shape ? `[${shape.join(', ')}]` : 'nothing';

/** @throws InfinityError CHECKPOINT_CONFIG_MISMATCH that lists them, with the options that decide them */
export function refuseState(mismatches: readonly Mismatch[], name = 'the weights'): never {
  const lines = mismatches.slice(0, MAX_LINES).map(({ tensor, option, expected, found }) => {
    const decides = option === undefined ? '' : ` (${option})`;
    return `"${tensor}"${decides}: expected ${text(expected)}, found ${text(found)}`;
  });
  if (mismatches.length > MAX_LINES) lines.push(`and ${mismatches.length - MAX_LINES} more`);
  const options = [...new Set(mismatches.flatMap(({ option }) => option?.split(', ') ?? []))];
  const listed = mismatches.map((m) => ({
    ...{ tensor: m.tensor, option: m.option ?? null },
    ...{ expected: text(m.expected), found: text(m.found) },
  }));
  throw new InfinityError(
    'CHECKPOINT_CONFIG_MISMATCH',
    `The tensors of ${name} do not fit the configuration: ${lines.join('; ')}.`,
    {
      value: mismatches[0]!.tensor,
      fields: { mismatches: listed, options },
      cure:
        options.length > 0
          ? `Correct ${options.slice(0, 4).join(', ')}, or use the weights that were saved with this configuration.`
          : 'Use the configuration that was saved with these weights.',
    },
  );
}
