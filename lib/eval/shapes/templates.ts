/** Which of the six shapes a component is: its mask against each shape's template at the component's bounding box. */

import { canRotate, SHAPES, type ShapeName, shapeDistance, shapeExtent } from '../../data/shapes/distance.js';

const ROTATIONS_DEGREES = [-20, -15, -10, -5, 0, 5, 10, 15, 20];
const IOU_MIN = 0.7;
const MARGIN_MIN = 0.03;

/** Templates are stored as signed distances over their bounding box, with a border for what lies just outside. */
const GRID = 128;
const BORDER = 0.1;
/**
 * A component reaches beyond its shape's outline by this many pixels: a pixel is foreground at 0.08 of OKLab distance,
 * that is at 10 % to 30 % of coverage.
 */
const OUTGROWTH = 0.3;

interface Template {
  readonly shape: ShapeName;
  /** Size of the bounding box, in units of the shape's radius. */
  readonly width: number;
  readonly height: number;
  /** GRID*GRID signed distances, in units of the shape's radius. */
  readonly distance: Float32Array;
}

let cache: readonly Template[] | undefined;

function templates(): readonly Template[] {
  cache ??= SHAPES.flatMap((shape) =>
    (canRotate(shape) ? ROTATIONS_DEGREES : [0]).map((degrees) => makeTemplate(shape, (degrees * Math.PI) / 180)),
  );
  return cache;
}

function makeTemplate(shape: ShapeName, rotation: number): Template {
  const { left, right, top, bottom } = shapeExtent(shape, rotation);
  const width = right - left;
  const height = bottom - top;
  const cos = Math.cos(rotation);
  const sin = Math.sin(rotation);
  const distance = new Float32Array(GRID * GRID);
  const along = (i: number) => ((i + 0.5) / GRID) * (1 + 2 * BORDER) - BORDER;
  for (let gy = 0; gy < GRID; gy++) {
    const y = top + along(gy) * height;
    for (let gx = 0; gx < GRID; gx++) {
      const x = left + along(gx) * width;
      distance[gy * GRID + gx] = shapeDistance(shape, x * cos + y * sin, y * cos - x * sin);
    }
  }
  return { shape, width, height, distance };
}

export interface ShapeMatch {
  /** null: no shape reached the least overlap, or two were too close to call. */
  readonly shape: ShapeName | null;
  /** Best intersection over union. */
  readonly overlap: number;
  /** Lead over the best other shape. */
  readonly margin: number;
}

/**
 * Best intersection over union of a component with each shape's template.
 * @param mask width*height bytes over the component's bounding box, 1 inside the component; holes stay holes.
 */
export function matchShape(mask: Uint8Array, width: number, height: number): ShapeMatch {
  const columns = gridPositions(width);
  const rows = gridPositions(height);
  let area = 0;
  for (let i = 0; i < width * height; i++) area += mask[i];

  const best: Partial<Record<ShapeName, number>> = {};
  for (const template of templates()) {
    const pixelsPerUnit = (inner(width) / template.width + inner(height) / template.height) / 2;
    const limit = OUTGROWTH / pixelsPerUnit;
    let both = 0;
    let inTemplate = 0;
    for (let y = 0, at = 0; y < height; y++) {
      const row = rows[y] * GRID;
      for (let x = 0; x < width; x++, at++) {
        const hit = template.distance[row + columns[x]] < limit ? 1 : 0;
        inTemplate += hit;
        both += hit & mask[at];
      }
    }
    const overlap = both / (area + inTemplate - both);
    best[template.shape] = Math.max(best[template.shape] ?? 0, overlap);
  }
  const ranked = SHAPES.map((shape) => ({ shape, overlap: best[shape] ?? 0 })).sort((a, b) => b.overlap - a.overlap);
  const [first, second] = ranked;
  const margin = first.overlap - second.overlap;
  const sure = first.overlap >= IOU_MIN && margin >= MARGIN_MIN;
  return { shape: sure ? first.shape : null, overlap: first.overlap, margin };
}

/** Extent of the outline inside a box of `length` pixels, which the outgrowth widened at both ends. */
function inner(length: number): number {
  return Math.max(1, length - 2 * OUTGROWTH);
}

/** Grid index of each pixel centre of a box of `length` pixels. */
function gridPositions(length: number): Int32Array {
  return Int32Array.from({ length }, (_, i) => {
    const u = (i + 0.5 - (length - inner(length)) / 2) / inner(length);
    return Math.min(GRID - 1, Math.max(0, Math.floor(((u + BORDER) / (1 + 2 * BORDER)) * GRID)));
  });
}
