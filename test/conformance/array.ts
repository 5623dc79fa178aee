/** Arrays on the host in the axis order of a golden file, and their way to the device and back. */
import { DTYPE_BYTES, elementCount, type TensorData, toFloat32, toFloat64 } from '../../lib/io/tensor_data.js';
import { type DType, Tensor, type TensorBytes } from '../../lib/tensor.js';

export type Numbers = Float64Array | Float32Array | Int32Array | Uint16Array | Uint8Array | BigInt64Array;

export interface HostArray {
  readonly shape: readonly number[];
  readonly data: Numbers;
}

/** The numbers of a stored tensor: 64-bit integers stay exact, F32 and U8 keep their type, the rest becomes float64. */
export function fromStored(td: TensorData): HostArray {
  const { shape, data } = td;
  switch (td.dtype) {
    case 'F32':
      return { shape, data: toFloat32(td) };
    case 'U8':
      return { shape, data };
    case 'I64': {
      const bytes = new Uint8Array(data);
      return { shape, data: new BigInt64Array(bytes.buffer, 0, bytes.byteLength / DTYPE_BYTES.I64) };
    }
    case 'I32':
      return { shape, data: Int32Array.from(toFloat64(td)) };
    default:
      return { shape, data: toFloat64(td) };
  }
}

/** Copies with the axes in another order, as numpy's transpose. */
export function permuted(a: HostArray, axes: readonly number[]): HostArray {
  const shape = axes.map((axis) => a.shape[axis]!);
  const strides = new Array<number>(a.shape.length).fill(1);
  for (let i = a.shape.length - 2; i >= 0; i--) strides[i] = strides[i + 1]! * a.shape[i + 1]!;
  const data = a.data.slice();
  const index = new Array<number>(shape.length).fill(0);
  const steps = axes.map((axis) => strides[axis]!);
  let from = 0;
  for (let to = 0; to < data.length; to++) {
    data[to] = a.data[from]!;
    for (let i = shape.length - 1; i >= 0; i--) {
      from += steps[i]!;
      if (++index[i]! < shape[i]!) break;
      from -= steps[i]! * shape[i]!;
      index[i] = 0;
    }
  }
  return { shape, data };
}

export function reshaped(a: HostArray, shape: readonly number[]): HostArray {
  if (elementCount(shape) !== a.data.length) throw new Error(`[${a.shape}] does not fit [${shape}]`);
  return { shape, data: a.data };
}

/** [B, C, ...spatial] -> [B, ...spatial, C]. */
export function channelsLast(a: HostArray): HostArray {
  const rank = a.shape.length;
  return permuted(a, [0, ...Array.from({ length: rank - 2 }, (_, i) => i + 2), 1]);
}

/** [B, ...spatial, C] -> [B, C, ...spatial]. */
export function channelsFirst(a: HostArray): HostArray {
  const rank = a.shape.length;
  return permuted(a, [0, rank - 1, ...Array.from({ length: rank - 2 }, (_, i) => i + 1)]);
}

/** The positions `begin`..`end` along one axis. */
export function sliced(a: HostArray, axis: number, begin: number, end: number): HostArray {
  const extent = a.shape[axis] ?? 0;
  if (!(begin >= 0 && begin < end && end <= extent))
    throw new Error(`positions ${begin}..${end} of axis ${axis} are not in [${a.shape}]`);
  const inner = elementCount(a.shape.slice(axis + 1));
  const outer = elementCount(a.shape.slice(0, axis));
  const shape = a.shape.map((n, i) => (i === axis ? end - begin : n));
  const data = a.data.slice(0, elementCount(shape));
  const run = (end - begin) * inner;
  for (let o = 0; o < outer; o++) {
    const from = (o * extent + begin) * inner;
    for (let i = 0; i < run; i++) data[o * run + i] = a.data[from + i]!;
  }
  return { shape, data };
}

/** The rows (leading axes of `mask`) whose mask is not 0, as [rows, ...rest]. */
export function maskedRows(a: HostArray, mask: HostArray): HostArray {
  const rank = mask.shape.length;
  if (a.shape.slice(0, rank).join() !== mask.shape.join())
    throw new Error(`row mask [${mask.shape}] does not fit [${a.shape}]`);
  const width = elementCount(a.shape.slice(rank));
  const rows = [...mask.data.keys()].filter((row) => Number(mask.data[row]) !== 0);
  const data = a.data.slice(0, rows.length * width);
  rows.forEach((row, to) => {
    for (let i = 0; i < width; i++) data[to * width + i] = a.data[row * width + i]!;
  });
  return { shape: [rows.length, ...a.shape.slice(rank)], data };
}

export function scalar(value: number): HostArray {
  return { shape: [1], data: Float64Array.of(value) };
}

export function list(values: ArrayLike<number>): HostArray {
  return { shape: [values.length], data: Float64Array.from(values) };
}

export function numbers(a: HostArray): number[] {
  return Array.from(a.data as ArrayLike<number | bigint>, Number);
}

/** A tensor of the default device with the array's numbers; 64-bit types narrow to the device's. */
export function upload(a: HostArray, shape: readonly number[] = a.shape, dtype?: DType): Tensor {
  const { data } = a;
  const narrow: TensorBytes =
    data instanceof BigInt64Array
      ? Int32Array.from(data, Number)
      : data instanceof Float64Array
        ? Float32Array.from(data)
        : data;
  return Tensor.from(narrow, shape, dtype);
}

export async function download(tensor: Tensor, shape: readonly number[] = tensor.shape): Promise<HostArray> {
  return reshaped({ shape: tensor.shape, data: await tensor.read() }, shape);
}
