/** Weights of a network in a tensor source: are they all there, in the right shape and type, and what are their values. */
import { createHash } from 'node:crypto';
import { InfinityError } from '../errors.js';
import type { TensorSource } from './safetensors.js';
import { formatInfo, type TensorDType, type TensorInfo, toFloat32 } from './tensor_data.js';

/** Types that weights may be stored in. */
const FLOATING: readonly TensorDType[] = ['F64', 'F32', 'F16', 'BF16'];

export interface CheckOptions {
  /** What is being loaded ("vae/model.safetensors"), for the message. */
  readonly name: string;
  /** Names that may be present without being expected. */
  readonly ignore?: (name: string) => boolean;
  /** Accepted types. Default: every floating-point type. */
  readonly dtypes?: readonly TensorDType[];
}

/** More lines than this are counted, not listed. */
const MAX_LINES = 12;

/**
 * Compares the tensors of a file with the names and shapes that a configuration asks for.
 *
 * @throws InfinityError CHECKPOINT_CONFIG_MISMATCH that lists every tensor that is missing, unknown or of another shape
 *   or type, with what was expected and what was found (`fields.mismatches`)
 */
export function checkTensors(
  found: ReadonlyMap<string, TensorInfo>,
  expected: ReadonlyMap<string, readonly number[]>,
  { name, ignore = () => false, dtypes = FLOATING }: CheckOptions,
): void {
  const mismatches: { tensor: string; expected: string; found: string }[] = [];
  for (const [tensor, shape] of expected) {
    const info = found.get(tensor);
    const fits = info && dtypes.includes(info.dtype) && info.shape.join() === shape.join();
    if (fits) continue;
    const wanted = formatInfo({ dtype: info && dtypes.includes(info.dtype) ? info.dtype : dtypes[0], shape });
    mismatches.push({ tensor, expected: wanted, found: info ? formatInfo(info) : 'nothing' });
  }
  for (const [tensor, info] of found) {
    if (!expected.has(tensor) && !ignore(tensor))
      mismatches.push({ tensor, expected: 'nothing', found: formatInfo(info) });
  }
  if (mismatches.length === 0) return;
  const lines = mismatches.slice(0, MAX_LINES).map((m) => `"${m.tensor}": expected ${m.expected}, found ${m.found}`);
  if (mismatches.length > MAX_LINES) lines.push(`and ${mismatches.length - MAX_LINES} more`);
  throw new InfinityError(
    'CHECKPOINT_CONFIG_MISMATCH',
    `The tensors of ${name} do not fit its configuration: ${lines.join('; ')}.`,
    {
      value: mismatches[0].tensor,
      cure: 'Use the config.json that was written with these weights.',
      fields: { mismatches },
    },
  );
}

/** Shapes and float32 values of a source's floating-point tensors: what a network loads from. */
export interface FloatWeights {
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  read(name: string): Promise<Float32Array>;
}

/** The floating-point tensors of a source; masks and counters of other types are left out. */
export function floatWeights(source: TensorSource): FloatWeights {
  const floating = [...source.tensors].filter(([, { dtype }]) => FLOATING.includes(dtype));
  return {
    shapes: new Map(floating.map(([name, { shape }]) => [name, shape])),
    read: async (name) => toFloat32(await source.read(name)),
  };
}

/**
 * The same weights, and a digest of those that were read: SHA-256 over a line "name [shape] SHA-256 of the f32 values" for each,
 * in the order of names. It is the same for every kind of file that the weights can stand in.
 */
export function digested(weights: FloatWeights): FloatWeights & { digest(): string } {
  const lines = new Map<string, string>();
  return {
    shapes: weights.shapes,
    read: async (name) => {
      const values = await weights.read(name);
      const hash = createHash('sha256').update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
      lines.set(name, `${name} [${weights.shapes.get(name)?.join(', ')}] ${hash.digest('hex')}\n`);
      return values;
    },
    digest: () => {
      const sorted = [...lines.keys()].sort().map((name) => lines.get(name));
      return createHash('sha256').update(sorted.join('')).digest('hex');
    },
  };
}
