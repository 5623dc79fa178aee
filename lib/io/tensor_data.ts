/** A tensor at rest: raw little-endian row-major bytes with their type and shape, as they lie in a file. */
import { InfinityError } from '../errors.js';

/** Bytes of one element of every type that safetensors files hold. */
export const DTYPE_BYTES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
} as const;

export type TensorDType = keyof typeof DTYPE_BYTES;

export interface TensorInfo {
  readonly dtype: TensorDType;
  readonly shape: readonly number[];
}

export interface TensorData extends TensorInfo {
  /** Little-endian, row-major; any byte offset into its buffer. */
  readonly data: Uint8Array;
}

/** A tensor whose bytes come into memory when it is written: for files that are larger than memory. */
export interface LazyTensor extends TensorInfo {
  load(): Promise<Uint8Array>;
}

/** Elements of a shape; a scalar (`[]`) has one. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((n, extent) => n * extent, 1);
}

/** "F32 [2, 3]", for messages. */
export function formatInfo({ dtype, shape }: TensorInfo): string {
  return `${dtype} [${shape.join(', ')}]`;
}

/** The float32 pattern of a bfloat16: its upper half. */
function bf16ToF32(bits: number, view: DataView): number {
  view.setUint32(0, bits << 16);
  return view.getFloat32(0);
}

/** IEEE half, subnormals and specials included. */
function f16ToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** The nearest bfloat16 bit pattern of a float32 bit pattern, ties to even; a NaN stays a (quiet) NaN. */
export function roundToBf16(f32Bits: number): number {
  if ((f32Bits & 0x7fffffff) > 0x7f800000) return ((f32Bits >>> 16) | 0x40) & 0xffff;
  return ((f32Bits + 0x7fff + ((f32Bits >>> 16) & 1)) >>> 16) & 0xffff;
}

let halves: Float32Array | undefined;

/** The values of all 65536 half-precision patterns: weights come by the hundred million. */
function halfValues(): Float32Array {
  halves ??= Float32Array.from({ length: 1 << 16 }, (_, bits) => f16ToNumber(bits));
  return halves;
}

type Read = (view: DataView, at: number) => number;

function reader(dtype: TensorDType): Read {
  const scratch = new DataView(new ArrayBuffer(4));
  switch (dtype) {
    case 'F64':
      return (v, at) => v.getFloat64(at, true);
    case 'F32':
      return (v, at) => v.getFloat32(at, true);
    case 'BF16':
      return (v, at) => bf16ToF32(v.getUint16(at, true), scratch);
    case 'I64':
      return (v, at) => Number(v.getBigInt64(at, true));
    case 'U64':
      return (v, at) => Number(v.getBigUint64(at, true));
    case 'I32':
      return (v, at) => v.getInt32(at, true);
    case 'U32':
      return (v, at) => v.getUint32(at, true);
    case 'I16':
      return (v, at) => v.getInt16(at, true);
    case 'U16':
      return (v, at) => v.getUint16(at, true);
    case 'I8':
      return (v, at) => v.getInt8(at);
    case 'U8':
    case 'BOOL':
      return (v, at) => v.getUint8(at);
    default:
      throw new InfinityError('UNSUPPORTED_DTYPE', `Expected a type with a numeric reading but received ${dtype}.`, {
        value: dtype,
        cure: 'Convert the file to F32, F16 or BF16 first.',
      });
  }
}

function fill<T extends Float32Array | Float64Array>(td: TensorData, out: T): T {
  const { data } = td;
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  if (td.dtype === 'BF16' && out instanceof Float32Array) {
    const bits = new Uint32Array(out.buffer, out.byteOffset, out.length);
    // Weights come by the hundred million: a typed array is several times as fast as a view.
    const aligned = data.byteOffset % 2 === 0 ? data : new Uint8Array(data);
    const halves = new Uint16Array(aligned.buffer, aligned.byteOffset, out.length);
    for (let i = 0; i < bits.length; i++) bits[i] = halves[i] << 16;
    return out;
  }
  if (td.dtype === 'F16') {
    const values = halfValues();
    for (let i = 0; i < out.length; i++) out[i] = values[view.getUint16(2 * i, true)]!;
    return out;
  }
  const read = reader(td.dtype);
  const step = DTYPE_BYTES[td.dtype];
  for (let i = 0; i < out.length; i++) out[i] = read(view, i * step);
  return out;
}

/** The values as float32. Shares the bytes of an aligned F32 tensor, copies otherwise: treat it as read-only. */
export function toFloat32(td: TensorData): Float32Array {
  const { data } = td;
  const count = elementCount(td.shape);
  if (td.dtype !== 'F32') return fill(td, new Float32Array(count));
  if (data.byteOffset % 4 === 0) return new Float32Array(data.buffer, data.byteOffset, count);
  // Not slice(): on a Buffer that is a view, not a copy.
  return new Float32Array(new Uint8Array(data).buffer, 0, count);
}

/** The values as float64: exact for every type but 64-bit integers beyond 2^53. Always a copy. */
export function toFloat64(td: TensorData): Float64Array {
  return fill(td, new Float64Array(elementCount(td.shape)));
}

/**
 * Float32 values as a tensor at rest. F32 shares the bytes of `values`; BF16 rounds to nearest, ties to even.
 *
 * @throws InfinityError INVALID_SHAPE when `shape` does not hold `values.length` elements
 */
export function fromFloat32(values: Float32Array, shape: readonly number[], dtype: 'F32' | 'BF16' = 'F32'): TensorData {
  if (elementCount(shape) !== values.length) {
    throw new InfinityError(
      'INVALID_SHAPE',
      `Expected ${values.length} elements but received shape [${shape.join(', ')}].`,
      {
        value: shape,
      },
    );
  }
  if (dtype === 'F32')
    return { dtype, shape, data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) };
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) halves[i] = roundToBf16(bits[i]!);
  return { dtype, shape, data: new Uint8Array(halves.buffer) };
}
