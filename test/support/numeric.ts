/** Oracles shared by the op tests: reproducible inputs, comparison against f64, finite differences. */
import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { native } from '../../lib/native.js';
import { packBits } from '../../lib/ops/bits.js';
import { Tape } from '../../lib/tape.js';
import { type Shape, scope, sizeOf, Tensor } from '../../lib/tensor.js';

/** Numbers in [-scale, scale) from a small counter-based hash: the same on every machine. */
export function randomArray(seed: number, n: number, scale = 1): Float64Array {
  const out = new Float64Array(n);
  let state = (seed * 2654435761) >>> 0;
  for (let i = 0; i < n; i++) {
    state = (state + 0x9e3779b9) >>> 0;
    let h = state;
    h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
    h = (h ^ (h >>> 16)) >>> 0;
    // Rounded to f32, so that both precisions start from the same numbers.
    out[i] = Math.fround((h / 2 ** 31 - 1) * scale);
  }
  return out;
}

/** Labels of training at random, [..., D] bits packed. */
export function randomLabels(seed: number, shape: Shape, device?: Device): Tensor {
  const bits = Uint8Array.from(randomArray(seed, sizeOf(shape)), (v) => Number(v > 0));
  return scope(() => packBits(Tensor.from(bits, shape, 'u8', device)));
}

const devices = new Map<string, Device>();

/** What `isaDevice` calls the card of NODE_INFINITY_CUDA_LIBRARY; scripts/build-emulated.mjs builds one that needs no card. */
export const CUDA = process.env.NODE_INFINITY_CUDA_LIBRARY?.includes('emulated') ? 'cuda (emulated)' : 'cuda';

/**
 * One guarded device for each instruction set that the host has, and one for the card where NODE_INFINITY_CUDA_LIBRARY names
 * a backend; run the same spec on all of them.
 */
export function isaDevices(): [string, Device][] {
  const names = [...native().capabilities().isas, ...(process.env.NODE_INFINITY_CUDA_LIBRARY ? [CUDA] : [])];
  return names.map((name) => [name, isaDevice(name)]);
}

/** A device of one instruction set (two threads), or of the card, with guard zones around every tensor. */
export function isaDevice(isa: string): Device {
  let device = devices.get(isa);
  if (!device || device.closed) {
    const before = process.env.NODE_INFINITY_DEBUG;
    process.env.NODE_INFINITY_DEBUG = 'guard';
    const memoryLimit = 2 ** 31;
    device =
      isa === CUDA ? Device.create('cuda', { memoryLimit }) : Device.create('cpu', { isa, threads: 2, memoryLimit });
    if (before === undefined) delete process.env.NODE_INFINITY_DEBUG;
    else process.env.NODE_INFINITY_DEBUG = before;
    devices.set(isa, device);
  }
  return device;
}

/** Where f64 is computed: a card has no f64 kernels. */
export function referenceOf(device: Device): Device {
  return device.kind === 'cuda' ? isaDevice('generic') : device;
}

export function random(device: Device, seed: number, shape: Shape, dtype: 'f32' | 'f64' = 'f32', scale = 1): Tensor {
  return Tensor.from(randomArray(seed, sizeOf(shape), scale), shape, dtype, device);
}

/** Fails when a tensor leaked or a kernel wrote beyond its outputs since `before`. */
export async function assertClean(device: Device, liveBefore: number): Promise<void> {
  await device.sync();
  const stats = device.stats();
  assert.equal(stats.liveTensors, liveBefore, 'tensors leaked');
  assert.equal(stats.damagedGuards ?? 0, 0, 'a kernel wrote outside its outputs');
}

/** Largest |got - want| over the tensor, relative to the largest |want|; a NaN in `got` gives NaN. */
export function relativeError(got: ArrayLike<number>, want: ArrayLike<number>): number {
  assert.equal(got.length, want.length);
  let worst = 0;
  let largest = 0;
  for (let i = 0; i < want.length; i++) {
    const error = Math.abs(got[i]! - want[i]!);
    if (!(error <= worst)) worst = error;
    largest = Math.max(largest, Math.abs(want[i]!));
  }
  return worst / (largest || 1);
}

export type TensorFn = (...inputs: Tensor[]) => Tensor | Tensor[];

/**
 * Runs `fn` in f32 on `device` and in f64, on the same inputs, and fails when the results differ by more than `tolerance`
 * of the largest value, when a tensor leaks, or when a guard zone is damaged.
 */
export async function assertMatchesReference(
  device: Device,
  fn: TensorFn,
  shapes: readonly Shape[],
  options: { seed?: number; scale?: number; tolerance?: number } = {},
): Promise<void> {
  const { seed = 1, scale = 1, tolerance = 2e-6 } = options;
  const live = device.stats().liveTensors;
  const results: (Float32Array | Float64Array)[][] = [];
  for (const dtype of ['f64', 'f32'] as const) {
    const outputs = scope(() => {
      const on = dtype === 'f64' ? referenceOf(device) : device;
      const y = fn(...shapes.map((shape, i) => random(on, seed + i, shape, dtype, scale)));
      return Array.isArray(y) ? y : [y];
    });
    results.push(await Promise.all(outputs.map((t) => t.readFloats())));
    for (const t of outputs) t.dispose();
  }
  const [want, got] = results;
  for (let i = 0; i < want!.length; i++) {
    const error = relativeError(got![i]!, want![i]!);
    assert.ok(error <= tolerance, `output ${i}: relative error ${error} above ${tolerance}`);
  }
  await assertClean(device, live);
}

/** Gradients of sum(fn(inputs) · R), R fixed and random, by the tape; a gradient that is none counts as zeros. */
async function tapeGradients(
  device: Device,
  dtype: 'f32' | 'f64',
  fn: TensorFn,
  shapes: readonly Shape[],
  values: readonly Float64Array[],
): Promise<ArrayLike<number>[]> {
  const inputs = shapes.map((shape, i) => Tensor.from(values[i]!, shape, dtype, device));
  const tape = new Tape().watch(...inputs);
  const outputs = tape.run(() => {
    const y = fn(...inputs);
    return Array.isArray(y) ? y : [y];
  });
  const cotangents = outputs.map((y, i) => Tensor.from(randomArray(1000 + i, y.size), y.shape, dtype, device));
  const grads = tape.backward(outputs.map((of, i) => ({ of, cotangent: cotangents[i]! })));
  const got = await Promise.all(
    inputs.map(async (t) => (await grads.get(t)?.readFloats()) ?? new Float64Array(t.size)),
  );
  for (const t of [...outputs, ...cotangents, ...inputs]) t.dispose();
  grads.dispose();
  return got;
}

/**
 * Compares every gradient of sum(fn(inputs) · R), R fixed and random, with central differences in f64. On a card, which has no
 * f64, the gradients in f32 are compared with those in f64 of the processor, which this function checks on its own.
 */
export async function assertGradients(
  device: Device,
  fn: TensorFn,
  shapes: readonly Shape[],
  options: { seed?: number; scale?: number; step?: number; tolerance?: number; cardTolerance?: number } = {},
): Promise<void> {
  const { seed = 1, scale = 1, step = 1e-5, tolerance = 1e-6, cardTolerance = 1e-5 } = options;
  const live = device.stats().liveTensors;
  const values = shapes.map((shape, i) => randomArray(seed + i, sizeOf(shape), scale));
  const outputsOf = (inputs: Tensor[]): Tensor[] => {
    const y = fn(...inputs);
    return Array.isArray(y) ? y : [y];
  };
  if (device.kind === 'cuda') {
    const want = await tapeGradients(referenceOf(device), 'f64', fn, shapes, values);
    const got = await tapeGradients(device, 'f32', fn, shapes, values);
    for (const [i, gradient] of got.entries()) {
      const error = relativeError(gradient, want[i]!);
      assert.ok(error <= cardTolerance, `gradient of input ${i}: relative error ${error} above ${cardTolerance}`);
    }
    return assertClean(device, live);
  }
  const got = await tapeGradients(device, 'f64', fn, shapes, values);
  const loss = async (): Promise<number> => {
    const ys = scope(() => outputsOf(shapes.map((shape, i) => Tensor.from(values[i]!, shape, 'f64', device))));
    let sum = 0;
    for (const [i, y] of ys.entries()) {
      const data = await y.readFloats();
      const weights = randomArray(1000 + i, y.size);
      for (let j = 0; j < data.length; j++) sum += data[j]! * weights[j]!;
      y.dispose();
    }
    return sum;
  };
  for (const [i, value] of values.entries()) {
    const want = new Float64Array(value.length);
    for (let j = 0; j < value.length; j++) {
      const at = value[j]!;
      value[j] = at + step;
      const up = await loss();
      value[j] = at - step;
      const down = await loss();
      value[j] = at;
      want[j] = (up - down) / (2 * step);
    }
    const error = relativeError(got[i]!, want);
    assert.ok(error <= tolerance, `gradient of input ${i}: relative error ${error} above ${tolerance}`);
  }
  await assertClean(device, live);
}
