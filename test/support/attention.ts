/** Attention by the textbook, in double precision and plain loops: the oracle of the op. */
import type { Device } from '../../lib/device.js';
import { attention } from '../../lib/ops/attention.js';
import { Tape } from '../../lib/tape.js';
import { type Shape, Tensor } from '../../lib/tensor.js';
import { toBf16 } from './bf16.js';
import { randomArray } from './numeric.js';

export type Numbers = Float32Array | Float64Array;

export interface AttentionCase {
  readonly batch: number;
  readonly queries: number;
  readonly keys: number;
  readonly heads: number;
  readonly width: number;
  /** Entries of k: the batch, or 1 for keys that all samples share. */
  readonly entries: number;
  readonly scale: number;
  readonly unitKeys?: boolean;
  /** [start, end) of each query. */
  readonly range?: (b: number, q: number) => readonly [number, number];
  readonly bias?: ArrayLike<number>;
}

/** o [B, Lq, H·c]; zeros for a query that sees nothing. */
export function attentionByLoops(
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  v: ArrayLike<number>,
  c: AttentionCase,
): Float64Array {
  const channels = c.heads * c.width;
  const out = new Float64Array(c.batch * c.queries * channels);
  for (let b = 0; b < c.batch; b++)
    for (let h = 0; h < c.heads; h++)
      for (let i = 0; i < c.queries; i++) {
        const [start, end] = c.range?.(b, i) ?? [0, c.keys];
        const at = (b * c.queries + i) * channels + h * c.width;
        const rowOf = (j: number): number => ((c.entries === 1 ? 0 : b) * c.keys + j) * channels + h * c.width;
        const scores: number[] = [];
        for (let j = start; j < end; j++) {
          let dot = 0;
          for (let d = 0; d < c.width; d++) dot += q[at + d]! * k[rowOf(j) + d]!;
          scores.push(dot * c.scale + (c.bias?.[(h * c.queries + i) * c.keys + j] ?? 0));
        }
        const largest = Math.max(...scores);
        const weights = scores.map((s) => Math.exp(s - largest));
        const total = weights.reduce((sum, w) => sum + w, 0);
        for (const [n, w] of weights.entries())
          for (let d = 0; d < c.width; d++) out[at + d] = out[at + d]! + (w / total) * v[rowOf(start + n) + d]!;
      }
  return out;
}

/**
 * o, and the gradients of sum(o · go) by q, k, v and, where the case has one, the bias. `round` is applied where a kernel of
 * low precision rounds, too: to operands of products that it computed itself, and to results.
 */
export function attentionGradientsByLoops(
  inputs: readonly ArrayLike<number>[],
  go: ArrayLike<number>,
  c: AttentionCase,
  round: (x: number) => number = (x) => x,
): Float64Array[] {
  const [q, k, v] = inputs as [ArrayLike<number>, ArrayLike<number>, ArrayLike<number>];
  const channels = c.heads * c.width;
  const [o, gq, gk, gv] = [q, q, k, v].map((x) => new Float64Array(x.length)) as [
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  const gbias = new Float64Array(c.heads * c.queries * c.keys);
  for (let b = 0; b < c.batch; b++)
    for (let h = 0; h < c.heads; h++)
      for (let i = 0; i < c.queries; i++) {
        const [start, end] = c.range?.(b, i) ?? [0, c.keys];
        const at = (b * c.queries + i) * channels + h * c.width;
        const rowOf = (j: number): number => ((c.entries === 1 ? 0 : b) * c.keys + j) * channels + h * c.width;
        const biasAt = (h * c.queries + i) * c.keys;
        const dot = (x: ArrayLike<number>, y: ArrayLike<number>, from: number): number => {
          let sum = 0;
          for (let d = 0; d < c.width; d++) sum += x[at + d]! * y[from + d]!;
          return sum;
        };
        const scores: number[] = [];
        for (let j = start; j < end; j++) scores.push(dot(q, k, rowOf(j)) * c.scale + (c.bias?.[biasAt + j] ?? 0));
        const largest = Math.max(...scores);
        const weights = scores.map((s) => Math.exp(s - largest));
        const total = weights.reduce((sum, w) => sum + w, 0);
        for (let d = 0; d < c.width; d++) {
          for (const [n, w] of weights.entries()) o[at + d] = o[at + d]! + round(w) * v[rowOf(start + n) + d]!;
          o[at + d] = round(o[at + d]! / (total || 1));
        }
        const inner = dot(go, o, at);
        for (const [n, w] of weights.entries()) {
          const row = rowOf(start + n);
          const p = w / total;
          const slope = p * (dot(go, v, row) - inner);
          gbias[biasAt + start + n] = gbias[biasAt + start + n]! + slope;
          for (let d = 0; d < c.width; d++) {
            gq[at + d] = gq[at + d]! + round(slope) * k[row + d]! * c.scale;
            gk[row + d] = gk[row + d]! + round(slope) * q[at + d]! * c.scale;
            gv[row + d] = gv[row + d]! + round(p) * go[at + d]!;
          }
        }
      }
  return [o, ...[gq, gk, gv, ...(c.bias ? [gbias] : [])].map((g) => g.map(round))];
}

/** The i32 tensor [B, Lq, 2] of a case's ranges. */
export function rangeTensor(device: Device, c: AttentionCase): Tensor | null {
  const { range } = c;
  if (!range) return null;
  const rows = Array.from({ length: c.batch * c.queries }, (_, n) =>
    range(Math.floor(n / c.queries), n % c.queries),
  ).flat();
  return Tensor.from(Int32Array.from(rows), [c.batch, c.queries, 2], 'i32', device);
}

/** Ranges of a block-causal schedule: a query sees all keys of its scale and of the scales before. */
export function blockCausal(lengths: readonly number[]): (b: number, q: number) => readonly [number, number] {
  const ends = lengths.flatMap((n, scale) => {
    const end = lengths.slice(0, scale + 1).reduce((a, b) => a + b);
    return new Array<number>(n).fill(end);
  });
  return (_, q) => [0, ends[q]!];
}

/** Of q, k and v. */
export const shapesOf = (c: AttentionCase): Shape[] => {
  const channels = c.heads * c.width;
  return [
    [c.batch, c.queries, channels],
    [c.entries, c.keys, channels],
    [c.entries, c.keys, channels],
  ];
};

export const tensorOf = (values: Float64Array, shape: Shape, dtype: 'f32' | 'f64' | 'bf16', device: Device): Tensor =>
  Tensor.from(dtype === 'bf16' ? toBf16(values) : values, shape, dtype, device);

/** Output and gradients of one case in the given precision. */
export async function evaluate(
  device: Device,
  c: AttentionCase,
  dtype: 'f32' | 'f64' | 'bf16',
  values: readonly Float64Array[],
): Promise<Numbers[]> {
  const range = rangeTensor(device, c);
  const shapes = shapesOf(c);
  if (c.bias) shapes.push([c.heads, c.queries, c.keys]);
  const inputs = shapes.map((shape, i) => tensorOf(values[i]!, shape, dtype, device));
  const tape = new Tape().watch(...inputs);
  const o = tape.run(() => attention(inputs[0]!, inputs[1]!, inputs[2]!, { ...c, range, bias: inputs[3] ?? null }));
  const cotangent = tensorOf(randomArray(9, o.size), o.shape, dtype, device);
  const grads = tape.backward([{ of: o, cotangent }]);
  const all = [o, ...inputs.map((t) => grads.get(t)!)];
  const out = await Promise.all(all.map((t) => t.readFloats()));
  for (const t of [o, cotangent, ...inputs, range]) t?.dispose();
  grads.dispose();
  return out;
}
/** Random ones of q, k, v and the bias, where there is one. */
export const valuesOf = (c: AttentionCase): Float64Array[] => {
  const values = shapesOf(c).map((shape, i) =>
    randomArray(
      1 + i,
      shape.reduce((a, b) => a * b),
      2,
    ),
  );
  if (c.bias) values.push(Float64Array.from(c.bias));
  return values;
};
