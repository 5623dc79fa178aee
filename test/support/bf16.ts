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

const float = new Float32Array(1);
const word = new Uint32Array(float.buffer);

/** The nearest number that bf16 holds; of two as near, the even one. */
export function roundToBf16(x: number): number {
  float[0] = x;
  word[0] = ((word[0]! + 0x7fff + ((word[0]! >>> 16) & 1)) >>> 16) << 16;
  return float[0]!;
}

/** Numbers in [-scale, scale) that bf16 holds exactly. */
export function randomBf16(seed: number, n: number, scale = 1): Float64Array {
  return fromBf16(toBf16(randomArray(seed, n, scale)));
}

/**
 * An operand of an op: `stored` is bf16 on a card, a `measure` is f32 there, both are f64 on the processor; bits are u8. Values are
 * random where none are given.
 */
export interface Operand16 {
  readonly kind: 'stored' | 'measure' | 'bits';
  readonly shape: Shape;
  readonly values?: ArrayLike<number>;
}
export const stored = (...shape: number[]): Operand16 => ({ kind: 'stored', shape });
export const measure = (shape: Shape = [], values?: ArrayLike<number>): Operand16 =>
  values ? { kind: 'measure', shape, values } : { kind: 'measure', shape };
export const bits = (...shape: number[]): Operand16 => ({ kind: 'bits', shape });

interface Options16 {
  readonly params?: readonly number[];
  readonly seed?: number;
  readonly scale?: number;
  readonly tolerance?: number;
}

function upload(operand: Operand16 | Tensor | null, exact: boolean, on: Device, seed: number, scale: number) {
  if (!operand || operand instanceof Tensor) return operand;
  const { kind, shape } = operand;
  const n = sizeOf(shape);
  const values = operand.values ?? (kind === 'stored' ? randomBf16(seed, n, scale) : randomArray(seed, n, scale));
  if (kind === 'bits')
    return Tensor.from(
      Uint8Array.from(values, (v) => Number(v > 0)),
      shape,
      'u8',
      on,
    );
  if (exact) return Tensor.from(Float64Array.from(values), shape, 'f64', on);
  return kind === 'stored'
    ? Tensor.from(toBf16(values), shape, 'bf16', on)
    : Tensor.from(Float32Array.from(values), shape, 'f32', on);
}

/**
 * Runs `op` on a card and in f64 on the processor from the same numbers. What is stored may be off by twice what rounding the exact
 * result costs (2⁻⁸ of it), and everything by `tolerance` of the largest, the f32 budget of what was computed on the way; bits
 * are equal.
 * @param inputs operands, or what makes one for a device (i32, say); absent ones are null
 */
export async function assertMixed16(
  device: Device,
  op: OpDefinition,
  inputs: readonly (Operand16 | ((on: Device) => Tensor) | null)[],
  outputs: readonly Operand16[],
  options: Options16 = {},
): Promise<void> {
  const { params = [], seed = 1, scale = 1, tolerance = 2e-6 } = options;
  const live = device.stats().liveTensors;
  const [want, got] = await Promise.all(
    [true, false].map(async (exact) => {
      const on = exact ? referenceOf(device) : device;
      const given = inputs.map((x, i) => upload(typeof x === 'function' ? x(on) : x, exact, on, seed + i, scale));
      const specs = outputs.map(({ kind, shape }) => {
        const dtype = kind === 'bits' ? 'u8' : exact ? 'f64' : kind === 'stored' ? 'bf16' : 'f32';
        return { dtype, shape } as const;
      });
      const ys = run(op, given, specs, params);
      const read = await Promise.all(ys.map((y) => (y.dtype === 'u8' ? y.read() : y.readFloats())));
      for (const t of [...given, ...ys]) t?.dispose();
      return read;
    }),
  );
  for (const [k, exact] of want!.entries()) {
    const { kind } = outputs[k]!;
    const values = Array.from(exact);
    const largest = values.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    for (const [i, x] of values.entries()) {
      const error = Math.abs(got![k]![i]! - x);
      const rounding = kind === 'stored' ? 2 ** -8 * Math.abs(x) : 0;
      const allowed = kind === 'bits' ? 0 : rounding + tolerance * largest;
      assert.ok(error <= allowed, `${op.name}, output ${k}, element ${i}: ${got![k]![i]} for ${x}`);
    }
  }
  await assertClean(device, live);
}

/** `assertMixed16` of an op whose operands are all stored, and whose results are, or are measures where `result` is f32. */
export function assertBf16(
  device: Device,
  op: OpDefinition,
  shapes: readonly Shape[],
  outputs: readonly Shape[],
  { result = 'bf16', ...options }: Options16 & { readonly result?: 'bf16' | 'f32' } = {},
): Promise<void> {
  const inputs = shapes.map((shape) => stored(...shape));
  const results = outputs.map((shape) => (result === 'bf16' ? stored(...shape) : measure(shape)));
  return assertMixed16(device, op, inputs, results, options);
}
