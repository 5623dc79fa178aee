/** Norms by the textbook, for the specs of rows and of groups. */
import type { Device } from '../../lib/device.js';
import { type Shape, scope, type Tensor } from '../../lib/tensor.js';
import { random, randomArray } from './numeric.js';

export const EPS = 1e-6;
export type Numbers = Float32Array | Float64Array;

/** Normalises the elements of x that `member` gives the same group, by the textbook. */
export function normalise(x: Numbers, groupOf: (i: number) => number, centre: boolean): Float64Array {
  const members = new Map<number, number[]>();
  for (let i = 0; i < x.length; i++) {
    const list = members.get(groupOf(i));
    if (list) list.push(i);
    else members.set(groupOf(i), [i]);
  }
  const out = new Float64Array(x.length);
  for (const list of members.values()) {
    const mean = centre ? list.reduce((sum, i) => sum + x[i]!, 0) / list.length : 0;
    const variance = list.reduce((sum, i) => sum + (x[i]! - mean) ** 2, 0) / list.length;
    for (const i of list) out[i] = (x[i]! - mean) / Math.sqrt(variance + Math.fround(EPS));
  }
  return out;
}

/** The result of `fn` in `dtype` on the inputs that `random` gives for the seeds 1, 2, ... */
export async function evaluate(
  device: Device,
  dtype: 'f32' | 'f64',
  fn: (...inputs: Tensor[]) => Tensor,
  shapes: Shape[],
): Promise<Numbers> {
  const y = scope(() => fn(...shapes.map((shape, i) => random(device, 1 + i, shape, dtype))));
  const values = await y.readFloats();
  y.dispose();
  return values;
}

/** What `random` gives for input `i` of `evaluate`. */
export const input = (i: number, n: number): Float64Array => randomArray(1 + i, n);
