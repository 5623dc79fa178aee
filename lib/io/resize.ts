/**
 * Picture preparation: Lanczos resize and crop, byte for byte as the reference does with Pillow.
 * Sources: Infinity, infinity/dataset/dataset_t2i_iterable.py (transform); the resampling of Pillow on 8-bit channels:
 * weights normalised in double, then rounded to 22 fractional bits, one pass a direction with bytes in between.
 */
import { describe, InfinityError } from '../errors.js';
import type { Pixels } from './pixels.js';

const SUPPORT = 3;
const FRACTION_BITS = 22;
const HALF = 1 << (FRACTION_BITS - 1);
const MAX_SIDE = 1 << 15;

function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

function lanczos(x: number): number {
  return x >= -SUPPORT && x < SUPPORT ? sinc(x) * sinc(x / SUPPORT) : 0;
}

/** The source window of one output position and its integer weights. */
interface Window {
  readonly from: number;
  readonly weights: Int32Array;
}

/** Windows of the output positions `crop`..`crop + count` when `source` samples become `target`. */
function windows(source: number, target: number, crop: number, count: number): Window[] {
  const scale = source / target;
  const stretch = Math.max(scale, 1);
  const support = SUPPORT * stretch;
  return Array.from({ length: count }, (_, i) => {
    const center = (crop + i + 0.5) * scale;
    const from = Math.max(0, Math.trunc(center - support + 0.5));
    const to = Math.min(source, Math.trunc(center + support + 0.5));
    const raw = Array.from({ length: to - from }, (_, k) => lanczos((from + k - center + 0.5) * (1 / stretch)));
    const sum = raw.reduce((a, b) => a + b, 0);
    const weights = Int32Array.from(raw, (w) => {
      const scaled = (sum === 0 ? w : w / sum) * (1 << FRACTION_BITS);
      return Math.trunc(scaled + (w < 0 ? -0.5 : 0.5));
    });
    return { from, weights };
  });
}

function clampByte(sum: number): number {
  const v = sum >> FRACTION_BITS;
  return v < 0 ? 0 : v > 255 ? 255 : v;
}

/** Resamples rows `top`..`bottom` of a picture along x. */
function resampleColumns(picture: Pixels, columns: readonly Window[], top: number, bottom: number): Pixels {
  const width = columns.length;
  const data = new Uint8Array((bottom - top) * width * 3);
  for (let y = top; y < bottom; y++) {
    let at = (y - top) * width * 3;
    for (const { from, weights } of columns) {
      let [r, g, b] = [HALF, HALF, HALF];
      let source = (y * picture.width + from) * 3;
      for (const weight of weights) {
        r += picture.data[source++] * weight;
        g += picture.data[source++] * weight;
        b += picture.data[source++] * weight;
      }
      data[at++] = clampByte(r);
      data[at++] = clampByte(g);
      data[at++] = clampByte(b);
    }
  }
  return { width, height: bottom - top, data };
}

/** Resamples a picture whose first row is row `top` of the source along y. */
function resampleRows(picture: Pixels, rows: readonly Window[], top: number): Pixels {
  const stride = picture.width * 3;
  const data = new Uint8Array(rows.length * stride);
  for (const [y, { from, weights }] of rows.entries()) {
    for (let x = 0; x < stride; x++) {
      let sum = HALF;
      let source = (from - top) * stride + x;
      for (const weight of weights) {
        sum += picture.data[source] * weight;
        source += stride;
      }
      data[y * stride + x] = clampByte(sum);
    }
  }
  return { width: picture.width, height: rows.length, data };
}

/** Size before the crop: the target's aspect covered, the other side cut to an integer but never below the target. */
function coveringSize(picture: Pixels, height: number, width: number): readonly [height: number, width: number] {
  const aspect = picture.width / picture.height;
  if (aspect <= width / height) return [Math.max(height, Math.trunc(width / aspect)), width];
  return [height, Math.max(width, Math.trunc(aspect * height))];
}

/** The picture with left and right exchanged. */
export function mirror({ width, height, data }: Pixels): Pixels {
  const mirrored = new Uint8Array(data.length);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const from = (y * width + x) * 3;
      mirrored.set(data.subarray(from, from + 3), (y * width + width - 1 - x) * 3);
    }
  return { width, height, data: mirrored };
}

/** Resizes a picture as `resizeCrop` does, and crops the middle. */
export function resizeCenterCrop(picture: Pixels, height: number, width: number): Pixels {
  return resizeCrop(picture, height, width, (room) => Math.floor(room / 2));
}

/**
 * Resizes a picture (Lanczos) so that it covers `height` x `width`, and crops it.
 *
 * @param place where the crop starts when `room` pixels are left over, an integer from 0 to `room`: of rows, then of columns
 * @returns RGB bytes of exactly `height` x `width`
 * @throws InfinityError INVALID_ARGUMENT for sizes that are no positive integers, IMAGE_INVALID for an empty picture
 */
export function resizeCrop(picture: Pixels, height: number, width: number, place: (room: number) => number): Pixels {
  for (const side of [height, width]) {
    if (!Number.isInteger(side) || side < 1 || side > MAX_SIDE) {
      throw new InfinityError(
        'INVALID_ARGUMENT',
        `Expected a side from 1 to ${MAX_SIDE} but received ${describe(side)}.`,
        {
          value: side,
        },
      );
    }
  }
  if (!(picture.width > 0 && picture.height > 0) || picture.data.length !== picture.width * picture.height * 3) {
    throw new InfinityError(
      'IMAGE_INVALID',
      `Expected ${picture.width} x ${picture.height} RGB pixels but received ${picture.data.length} bytes.`,
    );
  }
  const [tall, wide] = coveringSize(picture, height, width);
  const rows = windows(picture.height, tall, place(tall - height), height);
  const columns = windows(picture.width, wide, place(wide - width), width);
  // Only the rows that the vertical pass reads go through the horizontal one. A side that keeps its size gets
  // windows of weight one, which copy.
  const top = rows[0].from;
  const bottom = Math.max(...rows.map(({ from, weights }) => from + weights.length));
  return resampleRows(resampleColumns(picture, columns, top, bottom), rows, top);
}
