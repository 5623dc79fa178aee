/** Which pixels of a picture are drawn anew, and how they join those that stay. */
import { invalidArgument } from '../errors.js';
import type { Pixels } from '../io/pixels.js';
import { resizeCenterCrop } from '../io/resize.js';
import type { Size } from './sizes.js';

/** Where on a canvas a picture goes, in pixels of the canvas. */
export interface Place {
  readonly top: number;
  readonly left: number;
  readonly height: number;
  readonly width: number;
}

/** Channels and masks from this value on are white. */
const WHITE = 128;

/** @throws InfinityError INVALID_ARGUMENT unless the place lies on the canvas */
export function checkPlace(place: Place, [height, width]: Size): void {
  const { top, left, height: h, width: w } = (place ?? {}) as Place;
  const whole = [top, left, h, w].every((n) => Number.isInteger(n) && n >= 0) && h > 0 && w > 0;
  if (!whole || top + h > height || left + w > width)
    invalidArgument(
      'place',
      `{ top, left, height, width } inside ${height}x${width}`,
      [top, left, h, w],
      'Make the picture smaller, or choose a larger size.',
    );
}

/** A picture resized and cropped to its place; around it, its outermost pixels go on to the edges of the canvas. */
export function placed(picture: Pixels, [height, width]: Size, place: Place): Pixels {
  const inner = resizeCenterCrop(picture, place.height, place.width);
  const data = new Uint8Array(height * width * 3);
  const clamp = (v: number, most: number): number => Math.max(0, Math.min(most - 1, v));
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const from = (clamp(y - place.top, place.height) * place.width + clamp(x - place.left, place.width)) * 3;
      data.set(inner.data.subarray(from, from + 3), (y * width + x) * 3);
    }
  return { height, width, data };
}

/**
 * Pixels of the canvas that are drawn anew, [height, width], 1 or 0: those where the mask is white, and all around the place.
 *
 * @throws InfinityError INVALID_ARGUMENT unless the mask has the size of the picture and something is drawn anew
 */
export function redrawnPixels(
  mask: Pixels | undefined,
  picture: Pixels,
  [height, width]: Size,
  place: Place,
): Uint8Array {
  const redrawn = new Uint8Array(height * width).fill(1);
  const inner =
    mask === undefined ? undefined : resizeCenterCrop(checkMask(mask, picture), place.height, place.width).data;
  for (let y = 0; y < place.height; y++)
    for (let x = 0; x < place.width; x++) {
      const at = (y * place.width + x) * 3;
      const white = inner !== undefined && inner[at]! + inner[at + 1]! + inner[at + 2]! >= 3 * WHITE;
      redrawn[(y + place.top) * width + x + place.left] = Number(white);
    }
  if (!redrawn.includes(1))
    invalidArgument('the mask', 'some white pixels', 'none', 'Paint white what is to be drawn anew.');
  return redrawn;
}

function checkMask(mask: Pixels, { height, width }: Pixels): Pixels {
  const { height: rows, width: columns, data } = (mask ?? {}) as Partial<Pixels>;
  if (rows !== height || columns !== width || !(data instanceof Uint8Array) || data.length !== height * width * 3)
    invalidArgument(
      'the mask',
      `a picture of ${height}x${width} pixels, as the picture is,`,
      rows === undefined ? mask : `${rows}x${columns}`,
      'Paint it over the picture: white is drawn anew.',
    );
  return mask;
}

/** Latent positions that are drawn anew: those with a pixel that is. [height / stride, width / stride]. */
export function redrawnPositions(redrawn: Uint8Array, [height, width]: Size, stride: number): Uint8Array {
  const columns = width / stride;
  const positions = new Uint8Array((height / stride) * columns);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      if (redrawn[y * width + x]) positions[Math.floor(y / stride) * columns + Math.floor(x / stride)] = 1;
  return positions;
}

/**
 * How much of each pixel is the drawn picture: 1 where it is drawn anew, less with every pixel beside it, 0 from `band` + 1 pixels
 * on, horizontally, vertically or diagonally.
 */
export function blendWeights(redrawn: Uint8Array, [height, width]: Size, band: number): Float32Array {
  const far = band + 1;
  const distance = Uint32Array.from(redrawn, (r) => (r ? 0 : far));
  const near = (at: number, other: number): void => {
    if (distance[other]! + 1 < distance[at]!) distance[at] = distance[other]! + 1;
  };
  // Two passes over the eight neighbours make chessboard distances exact.
  const pass = (y: number, x: number, step: number): void => {
    const at = y * width + x;
    const row = y - step >= 0 && y - step < height;
    if (x - step >= 0 && x - step < width) near(at, at - step);
    if (row) for (const side of [-1, 0, 1]) if (x + side >= 0 && x + side < width) near(at, at - step * width + side);
  };
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) pass(y, x, 1);
  for (let y = height - 1; y >= 0; y--) for (let x = width - 1; x >= 0; x--) pass(y, x, -1);
  return Float32Array.from(distance, (d) => 1 - Math.min(d, far) / far);
}

/** weights · drawn + (1 − weights) · plain, pixel by pixel; where a weight is 0 or 1, exactly the one or the other. */
export function blend(plain: Pixels, drawn: Pixels, weights: Float32Array): Pixels {
  const { height, width } = drawn;
  const data = Uint8Array.from(drawn.data, (v, i) => {
    const weight = weights[Math.floor(i / 3)]!;
    return Math.round(plain.data[i]! + weight * (v - plain.data[i]!));
  });
  return { height, width, data };
}
