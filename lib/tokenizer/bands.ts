/**
 * Pictures in bands of rows, for decoding with little memory. A convolution of a band reads one row more on either side, and
 * norms take their statistics from the whole picture, so a picture in bands is the picture, without a seam: the same sums in
 * the same order.
 */
import { writeSlice } from '../ops/shape.js';
import { scope, Tensor } from '../tensor.js';

/** An activation of one band takes about so many bytes at most. */
export const BAND_BYTES = 1 << 25;
/** Every band but the last has a multiple of so many rows, so that kernels that work on blocks of rows cut them alike. */
const ROW_MULTIPLE = 24;

/** Rows [begin, end) of a picture; `above` and `below` count the rows beyond them that are there to be read, 0 or 1. */
export interface Band {
  readonly begin: number;
  readonly end: number;
  readonly above: number;
  readonly below: number;
}

/** The bands of a picture of `height` rows. @param rowBytes bytes of the widest activation's row */
export function bandsOf(height: number, rowBytes: number, bandBytes: number): Band[] {
  const rows = Math.max(ROW_MULTIPLE, Math.floor(bandBytes / rowBytes / ROW_MULTIPLE) * ROW_MULTIPLE);
  return Array.from({ length: Math.ceil(height / rows) }, (_, i) => {
    const [begin, end] = [i * rows, Math.min(height, (i + 1) * rows)];
    return { begin, end, above: begin > 0 ? 1 : 0, below: end < height ? 1 : 0 };
  });
}

/** Rows [begin, end) of one picture [1, H, W, C]: a view. */
export function rowsOf(x_1HWC: Tensor, begin: number, end: number): Tensor {
  const [, , W = 1, C = 1] = x_1HWC.shape;
  return x_1HWC.view([1, end - begin, W, C], begin * W * C);
}

/** Rows of a band with those beside it. */
export function readable(x_1HWC: Tensor, { begin, end, above, below }: Band): Tensor {
  return rowsOf(x_1HWC, begin - above, end + below);
}

/** Zeros that a 3 × 3 convolution of `readable` rows still wants. */
export function bandPadding({ above, below }: Band) {
  return { top: 1 - above, bottom: 1 - below, left: 1, right: 1 };
}

/**
 * Fills a picture band by band; what a band needs is released before the next.
 * @param into [1, H, W, C]
 * @param widest channels of the widest activation at this height and width
 * @param rowsOfBand gives the rows of a band, [1, end - begin, W, C]
 */
export function fillBands(into: Tensor, widest: number, bandBytes: number, rowsOfBand: (band: Band) => Tensor): Tensor {
  const [, H = 1, W = 1] = into.shape;
  for (const band of bandsOf(H, W * widest * 4, bandBytes))
    scope(() => {
      writeSlice(into, rowsOfBand(band), 1, band.begin);
    });
  return into;
}

/** An uninitialised picture like x with another size. */
export function pictureLike(x: Tensor, height: number, width: number, channels: number): Tensor {
  return Tensor.empty([1, height, width, channels], x.dtype, x.device);
}
