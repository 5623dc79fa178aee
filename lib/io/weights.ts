/** Weights of a network in a tensor source: which tensors are candidates, and what their values are. */
import { createHash } from 'node:crypto';
import { formatInfo, type TensorDType, toFloat32 } from './tensor_data.js';
import type { TensorSource } from './tensor_source.js';

/** Types that weights may be stored in. */
const FLOATING: readonly TensorDType[] = ['F64', 'F32', 'F16', 'BF16'];

/** Whether a tensor of this type may be a weight: masks and counters have other types. */
export function isFloating(dtype: TensorDType): boolean {
  return FLOATING.includes(dtype);
}

/** Shapes and float32 values of a source's floating-point tensors: what a network loads from. */
export interface FloatWeights {
  readonly name: string;
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  /** Tensors of other types with a description of each. */
  readonly others: ReadonlyMap<string, string>;
  read(name: string): Promise<Float32Array>;
}

/**
 * The floating-point tensors of a source.
 *
 * @param name what they are called in messages
 */
export function floatWeights(source: TensorSource, name: string): FloatWeights {
  const shapes = new Map<string, readonly number[]>();
  const others = new Map<string, string>();
  for (const [tensor, info] of source.tensors) {
    if (isFloating(info.dtype)) shapes.set(tensor, info.shape);
    else others.set(tensor, formatInfo(info));
  }
  return { name, shapes, others, read: async (tensor) => toFloat32(await source.read(tensor)) };
}

/**
 * The same weights, and a digest of those that were read: SHA-256 over a line "name [shape] SHA-256 of the f32 values" for each,
 * in the order of names. It is the same for every kind of file that the weights can stand in.
 *
 * @param ownName the network's name of a tensor; files may spell it in other ways
 */
export function digested(
  weights: FloatWeights,
  ownName: (name: string) => string,
): FloatWeights & { digest(): string } {
  const lines = new Map<string, string>();
  return {
    ...weights,
    read: async (name) => {
      const values = await weights.read(name);
      const hash = createHash('sha256').update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
      const own = ownName(name);
      lines.set(own, `${own} [${weights.shapes.get(name)?.join(', ')}] ${hash.digest('hex')}\n`);
      return values;
    },
    digest: () => {
      const sorted = [...lines.keys()].sort().map((name) => lines.get(name));
      return createHash('sha256').update(sorted.join('')).digest('hex');
    },
  };
}
