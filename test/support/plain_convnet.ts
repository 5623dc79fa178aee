/** Convolutional networks in plain loops over numbers, independent of the library's kernels. Channels last, f64. */

/** A picture [height, width, channels] of numbers. */
export interface Plain {
  readonly h: number;
  readonly w: number;
  readonly c: number;
  readonly data: ArrayLike<number>;
}

const plain = (h: number, w: number, c: number, at: (y: number, x: number, k: number) => number): Plain => {
  const data = new Float64Array(h * w * c);
  for (let y = 0; y < h; y++)
    for (let x = 0; x < w; x++) for (let k = 0; k < c; k++) data[(y * w + x) * c + k] = at(y, x, k);
  return { h, w, c, data };
};
const value = ({ w, c, data }: Plain, y: number, x: number, k: number): number => data[(y * w + x) * c + k]!;

/** The pictures of a batch [B, H, W, C]. */
export function pictures(data: ArrayLike<number>, [b, h, w, c]: readonly number[]): Plain[] {
  return Array.from({ length: b! }, (_, i) => plain(h!, w!, c!, (y, x, k) => data[((i * h! + y) * w! + x) * c! + k]!));
}

/** Weights [outputs, inputs, kernel, kernel] with zeros around the picture. */
export function convolve(
  p: Plain,
  weight: ArrayLike<number>,
  bias: ArrayLike<number> | undefined,
  { outputs, kernel, stride = 1 }: { outputs: number; kernel: number; stride?: number },
): Plain {
  const side = (n: number): number => Math.floor((n + 2 - kernel) / stride) + 1;
  return plain(side(p.h), side(p.w), outputs, (y, x, o) => {
    let sum = bias?.[o] ?? 0;
    for (let c = 0; c < p.c; c++)
      for (let u = 0; u < kernel; u++)
        for (let v = 0; v < kernel; v++) {
          const [i, j] = [y * stride + u - 1, x * stride + v - 1];
          if (i >= 0 && i < p.h && j >= 0 && j < p.w)
            sum += weight[((o * p.c + c) * kernel + u) * kernel + v]! * value(p, i, j, c);
        }
    return sum;
  });
}

export function map(p: Plain, fn: (v: number, channel: number) => number): Plain {
  return plain(p.h, p.w, p.c, (y, x, k) => fn(value(p, y, x, k), k));
}

export function maxPool(p: Plain): Plain {
  return plain(Math.floor(p.h / 2), Math.floor(p.w / 2), p.c, (y, x, k) =>
    Math.max(...[0, 1, 2, 3].map((i) => value(p, 2 * y + (i >> 1), 2 * x + (i & 1), k))),
  );
}

/** Divides the vector of every position by its length + 1e-10. */
export function unitVectors(p: Plain): Plain {
  return plain(p.h, p.w, p.c, (y, x, k) => {
    let squares = 0;
    for (let c = 0; c < p.c; c++) squares += value(p, y, x, c) ** 2;
    return value(p, y, x, k) / (Math.sqrt(squares) + 1e-10);
  });
}

/** (x - mean) / √(variance + eps) · weight + bias, statistics of each channel over the whole batch. */
export function batchNorm(batch: readonly Plain[], weight: ArrayLike<number>, bias: ArrayLike<number>): Plain[] {
  const channels = batch[0]!.c;
  const moments = Array.from({ length: channels }, (_, k) => {
    const values = batch.flatMap(({ c, data }) => Array.from(data).filter((_, i) => i % c === k));
    const mean = values.reduce((a, b) => a + b) / values.length;
    const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length;
    return { mean, rstd: 1 / Math.sqrt(variance + 1e-5) };
  });
  return batch.map((p) => map(p, (v, k) => (v - moments[k]!.mean) * moments[k]!.rstd * weight[k]! + bias[k]!));
}
