/** bf16 operands for ops of cards, judged against f64 of the same rounded numbers. */
import assert from 'node:assert/strict';
import type { Device } from '../../lib/device.js';
import type { OpDefinition } from '../../lib/ops/generated.js';
import { run } from '../../lib/ops/run.js';
import { type Shape, sizeOf, Tensor } from '../../lib/tensor.js';
import { assertClean, randomArray, referenceOf } from './numeric.js';

/** To nearest, ties to even. */
export function toBf16(values: ArrayLike<number>): Uint16Array {
  const bits = new Uint32Array(Float32Array.from(values).buffer);
  return Uint16Array.from(bits, (u) => (u + 0x7fff + ((u >>> 16) & 1)) >>> 16);
}

export function fromBf16(bits: Uint16Array): Float64Array {
  return Float64Array.from(new Float32Array(Uint32Array.from(bits, (u) => u << 16).buffer));
}

/** Numbers in [-scale, scale) that bf16 holds exactly. */
export function randomBf16(seed: number, n: number, scale = 1): Float64Array {
  return fromBf16(toBf16(randomArray(seed, n, scale)));
}

/**
 * Runs `op` on bf16 tensors of the given shapes, and in f64 on the processor from the same numbers. Every element may be off by
 * twice what rounding the exact result costs (2⁻⁸ of it, nothing where the op is asked for f32), and by `tolerance` of the
 * largest, the f32 budget of what was computed on the way.
 */
export async function assertBf16(
  device: Device,
  op: OpDefinition,
  shapes: readonly Shape[],
  outputs: readonly Shape[],
  options: {
    params?: readonly number[];
    seed?: number;
    scale?: number;
    tolerance?: number;
    result?: 'bf16' | 'f32';
  } = {},
): Promise<void> {
  const { params = [], seed = 1, scale = 1, tolerance = 2e-6, result = 'bf16' } = options;
  const live = device.stats().liveTensors;
  const given = shapes.map((shape, i) => randomBf16(seed + i, sizeOf(shape), scale));
  const [want, got] = await Promise.all(
    (['f64', 'bf16'] as const).map(async (dtype) => {
      const on = dtype === 'f64' ? referenceOf(device) : device;
      const inputs = given.map((v, i) => Tensor.from(dtype === 'f64' ? v : toBf16(v), shapes[i]!, dtype, on));
      const specs = outputs.map((shape) => ({ dtype: dtype === 'f64' ? dtype : result, shape }));
      const ys = run(op, inputs, specs, params);
      const read = await Promise.all(ys.map((y) => y.readFloats()));
      for (const t of [...inputs, ...ys]) t.dispose();
      return read;
    }),
  );
  for (const [k, exact] of want!.entries()) {
    const values = Array.from(exact);
    const largest = values.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    for (const [i, x] of values.entries()) {
      const error = Math.abs(got![k]![i]! - x);
      const allowed = (result === 'bf16' ? 2 ** -8 * Math.abs(x) : 0) + tolerance * largest;
      assert.ok(error <= allowed, `${op.name}, output ${k}, element ${i}: ${got![k]![i]} for ${x}`);
    }
  }
  await assertClean(device, live);
}
