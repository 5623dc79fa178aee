/** Eight-bit RGB pictures in memory and the model's value range. */

/** Rows of RGB bytes: `data[(y * width + x) * 3 + channel]`. */
export interface Pixels {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/**
 * Bytes to the model's range: float32(v / 255) * 2 - 1, in the order of `data`.
 * Source: Infinity, infinity/dataset/dataset_t2i_iterable.py (transform).
 */
export function toSignedFloat(data: Uint8Array): Float32Array {
  const table = Float32Array.from({ length: 256 }, (_, v) => Math.fround(v / 255) * 2 - 1);
  const values = new Float32Array(data.length);
  for (let i = 0; i < data.length; i++) values[i] = table[data[i]!]!;
  return values;
}

/**
 * The model's range to bytes: (v + 1) / 2 * 255, clamped and truncated, as the reference does. `values` is
 * [height, width, 3] in RGB order.
 */
export function fromSignedFloat(values: Float32Array, height: number, width: number): Pixels {
  // A clamped byte array would round; truncation is what the reference's cast does.
  const data = new Uint8Array(values.length);
  for (let i = 0; i < data.length; i++) data[i] = Math.max(0, Math.min(255, ((values[i]! + 1) / 2) * 255));
  return { width, height, data };
}
