/** The oracle of matrix products and convolutions: ops that are sums of products of their inputs. */
import assert from 'node:assert/strict';
import type { Device } from '../../lib/device.js';
import { type Shape, scope, sizeOf, Tensor } from '../../lib/tensor.js';
import { assertClean, randomArray, referenceOf, type TensorFn } from './numeric.js';

/**
 * Compares f32 with f64, element by element, against the size of what was summed: the same op on absolute values. Sums
 * of terms of random sign, accumulated in f32, are off by about one rounding of Σ|terms| (root mean square, whatever their
 * number). The worst of some ten thousand is four to five times that: eight are allowed.
 */
export async function assertProducts(device: Device, fn: TensorFn, shapes: readonly Shape[], what = ''): Promise<void> {
  const live = device.stats().liveTensors;
  const values = shapes.map((shape, i) => randomArray(1 + i, sizeOf(shape)));
  const evaluate = async (dtype: 'f32' | 'f64', map: (v: number) => number) => {
    const on = dtype === 'f64' ? referenceOf(device) : device;
    const outputs = scope(() => {
      const y = fn(...shapes.map((shape, i) => Tensor.from(values[i]!.map(map), shape, dtype, on)));
      return Array.isArray(y) ? y : [y];
    });
    const data = await Promise.all(outputs.map((t) => t.readFloats()));
    for (const t of outputs) t.dispose();
    return data;
  };
  const same = (v: number): number => v;
  const [got, want, size] = [await evaluate('f32', same), await evaluate('f64', same), await evaluate('f64', Math.abs)];
  for (let i = 0; i < want.length; i++) {
    assert.equal(got[i]!.length, want[i]!.length);
    for (let j = 0; j < want[i]!.length; j++) {
      const error = Math.abs(got[i]![j]! - want[i]![j]!);
      const allowed = 2 ** -21 * size[i]![j]!;
      if (!(error <= allowed)) assert.fail(`${what} output ${i}[${j}]: error ${error} above ${allowed}`);
    }
  }
  await assertClean(device, live);
}
