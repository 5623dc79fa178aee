import type { ShapeName } from '../../data/shapes/distance.js';
import type { Oklab } from '../../data/shapes/oklab.js';
import { type ColorName, nearestColor } from '../../data/shapes/palette.js';
import { invalidArgument } from '../../errors.js';
import { type Component, connectedComponents, eroded, foregroundMask, toOklab } from './components.js';
import { matchShape } from './templates.js';

const COLOR_DISTANCE_MAX = 0.12;

/** What the judge sees of one object; null where it cannot tell. */
export interface DetectedObject {
  readonly shape: ShapeName | null;
  readonly color: ColorName | null;
  /** Centre of mass, in units of the canvas width and height. */
  readonly cx: number;
  readonly cy: number;
  /** Half of the longer side of the bounding box, in units of the canvas' longer side. */
  readonly radius: number;
}

/**
 * Finds the objects of a picture without knowing its prompt: the steps and thresholds of the set's definition (docs/shapes-eval.md).
 * @param pixels width*height*3 RGB bytes, row-major.
 * @throws INVALID_ARGUMENT when the byte count does not fit the size.
 */
export function detectObjects(pixels: Uint8Array, width: number, height: number): DetectedObject[] {
  if (width < 1 || height < 1 || pixels.length !== width * height * 3)
    invalidArgument('pixels', `${width}x${height}x3 bytes`, pixels.length, 'Pass RGB without alpha.');
  const lab = toOklab(pixels);
  const components = connectedComponents(foregroundMask(lab), width, height);
  return components.map((piece) => ({
    shape: matchShape(piece.mask, piece.width, piece.height).shape,
    color: colorOf(piece, lab, width),
    ...centerOf(piece, width, height),
    radius: Math.max(piece.width, piece.height) / 2 / Math.max(width, height),
  }));
}

function centerOf(piece: Component, width: number, height: number): { cx: number; cy: number } {
  let sumX = 0;
  let sumY = 0;
  for (let y = 0, at = 0; y < piece.height; y++) {
    for (let x = 0; x < piece.width; x++, at++) {
      if (piece.mask[at] === 0) continue;
      sumX += x;
      sumY += y;
    }
  }
  return {
    cx: (piece.left + sumX / piece.area + 0.5) / width,
    cy: (piece.top + sumY / piece.area + 0.5) / height,
  };
}

/** Nearest palette colour of the component's median, taken without its rim where anything is left of it. */
function colorOf(piece: Component, lab: Float32Array, canvasWidth: number): ColorName | null {
  const core = eroded(piece);
  const { color, distance } = nearestColor(medianOf(piece, core.includes(1) ? core : piece.mask, lab, canvasWidth));
  return distance <= COLOR_DISTANCE_MAX ? color : null;
}

function medianOf(piece: Component, mask: Uint8Array, lab: Float32Array, canvasWidth: number): Oklab {
  const channels = [0, 1, 2].map(() => new Float32Array(piece.area));
  let count = 0;
  for (let y = 0, at = 0; y < piece.height; y++) {
    for (let x = 0; x < piece.width; x++, at++) {
      if (mask[at] === 0) continue;
      const from = ((piece.top + y) * canvasWidth + piece.left + x) * 3;
      for (let c = 0; c < 3; c++) channels[c][count] = lab[from + c];
      count++;
    }
  }
  const [l, a, b] = channels.map((values) => values.subarray(0, count).sort()[count >> 1]);
  return [l, a, b];
}
