/** How far two pictures of one size are apart. */
import { setImmediate } from 'node:timers/promises';
import { invalidArgument } from '../errors.js';
import type { Pixels } from './pixels.js';

const PEAK = 255;
/** The window of SSIM: 11 x 11, a Gaussian of standard deviation 1.5. */
const TAPS = 11;
const SIGMA = 1.5;
/** Rows of windows between two turns of the event loop. */
const BAND = 32;
const C1 = (0.01 * PEAK) ** 2;
const C2 = (0.03 * PEAK) ** 2;

function checkSizes(a: Pixels, b: Pixels): void {
  if (a.width !== b.width || a.height !== b.height || a.data.length !== b.data.length)
    invalidArgument('the pictures', 'two of one size', [a.height, a.width, b.height, b.width]);
}

/** Peak signal-to-noise ratio over the three channels, dB; Infinity where nothing differs. */
export function psnr(a: Pixels, b: Pixels): number {
  checkSizes(a, b);
  let squares = 0;
  for (let i = 0; i < a.data.length; i++) squares += (a.data[i]! - b.data[i]!) ** 2;
  return 10 * Math.log10((PEAK * PEAK * a.data.length) / squares);
}

interface Plane {
  readonly height: number;
  readonly width: number;
  readonly data: Float64Array;
}

/** Luma of ITU-R BT.601, not rounded, of the rows first ≤ y < last. */
function luma({ width, data }: Pixels, first: number, last: number): Plane {
  const y = new Float64Array((last - first) * width);
  for (let i = 0, at = first * width * 3; i < y.length; i++, at += 3)
    y[i] = 0.299 * data[at]! + 0.587 * data[at + 1]! + 0.114 * data[at + 2]!;
  return { height: last - first, width, data: y };
}

function gaussian(taps: number): Float64Array {
  const weights = Float64Array.from({ length: taps }, (_, i) =>
    Math.exp(-((i - (taps - 1) / 2) ** 2) / (2 * SIGMA ** 2)),
  );
  const sum = weights.reduce((s, w) => s + w, 0);
  return weights.map((w) => w / sum);
}

/** Windowed means at every place where the whole window lies in the plane. */
function windowed({ height, width, data }: Plane): Plane {
  const [down, across] = [gaussian(Math.min(TAPS, height)), gaussian(Math.min(TAPS, width))];
  const [rows, columns] = [height - down.length + 1, width - across.length + 1];
  const lines = new Float64Array(height * columns);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < columns; x++) {
      let sum = 0;
      for (let i = 0; i < across.length; i++) sum += across[i]! * data[y * width + x + i]!;
      lines[y * columns + x] = sum;
    }
  const means = new Float64Array(rows * columns);
  for (let y = 0; y < rows; y++)
    for (let x = 0; x < columns; x++) {
      let sum = 0;
      for (let i = 0; i < down.length; i++) sum += down[i]! * lines[(y + i) * columns + x]!;
      means[y * columns + x] = sum;
    }
  return { height: rows, width: columns, data: means };
}

/** Sum over all windows of two planes of one size. */
function similarity(x: Plane, y: Plane): { sum: number; windows: number } {
  const products = (p: Plane, q: Plane): Plane => ({ ...p, data: p.data.map((v, i) => v * q.data[i]!) });
  const [mx, my] = [windowed(x).data, windowed(y).data];
  const [xx, yy, xy] = [windowed(products(x, x)).data, windowed(products(y, y)).data, windowed(products(x, y)).data];
  let sum = 0;
  for (let i = 0; i < mx.length; i++) {
    const means = mx[i]! * my[i]!;
    const [meanX, meanY] = [mx[i]! ** 2, my[i]! ** 2];
    const covariance = xy[i]! - means;
    const variances = xx[i]! - meanX + (yy[i]! - meanY);
    sum += ((2 * means + C1) * (2 * covariance + C2)) / ((meanX + meanY + C1) * (variances + C2));
  }
  return { sum, windows: mx.length };
}

/**
 * Structural similarity, 1 for equal pictures: of the luma, with a Gaussian window of 11 x 11 (standard deviation 1.5), K1 = 0.01,
 * K2 = 0.03, averaged over every place where the window lies in the picture. A side shorter than 11 pixels has a window as long.
 * Large pictures give other work its turn.
 * Source: Wang, Bovik, Sheikh, Simoncelli, Image quality assessment: from error visibility to structural similarity (2004).
 */
export async function ssim(a: Pixels, b: Pixels): Promise<number> {
  checkSizes(a, b);
  const taps = Math.min(TAPS, a.height);
  const rows = a.height - taps + 1;
  const all = { sum: 0, windows: 0 };
  for (let first = 0; first < rows; first += BAND) {
    if (first > 0) await setImmediate();
    const last = Math.min(rows, first + BAND) + taps - 1;
    const { sum, windows } = similarity(luma(a, first, last), luma(b, first, last));
    all.sum += sum;
    all.windows += windows;
  }
  return all.sum / all.windows;
}
