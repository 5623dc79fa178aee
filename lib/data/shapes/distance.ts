/** The six shapes as signed distances (negative inside), in units of their circumscribed circle's radius; x right, y down. */

export const SHAPES = ['circle', 'square', 'triangle', 'star', 'cross', 'ring'] as const;
export type ShapeName = (typeof SHAPES)[number];

/** Hole of a ring and valleys of a star, as a fraction of the outer radius: open enough to be seen at 13 pixels across. */
const RING_HOLE = 0.55;
const STAR_VALLEY = 0.45;
/** Half the width of a cross's arm as a fraction of the arm's length. */
const CROSS_ARM = 0.34;

function regular(count: number, firstAngle: number, radius: (corner: number) => number): Float64Array {
  const xy = new Float64Array(2 * count);
  for (let i = 0; i < count; i++) {
    const angle = firstAngle + (2 * Math.PI * i) / count;
    xy[2 * i] = radius(i) * Math.cos(angle);
    xy[2 * i + 1] = radius(i) * Math.sin(angle);
  }
  return xy;
}

function cross(): Float64Array {
  const long = 1 / Math.hypot(1, CROSS_ARM);
  const half = CROSS_ARM * long;
  const quadrant = [half, -long, half, -half, long, -half];
  const xy: number[] = [];
  // Each quarter turn of (x, y) is (-y, x).
  for (let turn = 0; turn < 4; turn++) {
    for (let i = 0; i < quadrant.length; i += 2) {
      xy.push(quadrant[i], quadrant[i + 1]);
      [quadrant[i], quadrant[i + 1]] = [-quadrant[i + 1], quadrant[i]];
    }
  }
  return Float64Array.from(xy);
}

const UP = -Math.PI / 2;

/** Corners (x, y pairs) of the shapes that are polygons. */
const CORNERS: Readonly<Record<Exclude<ShapeName, 'circle' | 'ring'>, Float64Array>> = {
  square: regular(4, UP + Math.PI / 4, () => 1),
  triangle: regular(3, UP, () => 1),
  star: regular(10, UP, (corner) => (corner % 2 === 0 ? 1 : STAR_VALLEY)),
  cross: cross(),
};

/** Exact signed distance to a closed polygon: nearest edge, sign by crossing number. */
function polygonDistance(xy: Float64Array, x: number, y: number): number {
  let nearest = Number.POSITIVE_INFINITY;
  let inside = false;
  let px = xy[xy.length - 2];
  let py = xy[xy.length - 1];
  for (let i = 0; i < xy.length; i += 2) {
    const qx = xy[i];
    const qy = xy[i + 1];
    const ex = px - qx;
    const ey = py - qy;
    const wx = x - qx;
    const wy = y - qy;
    const t = Math.min(1, Math.max(0, (wx * ex + wy * ey) / (ex * ex + ey * ey)));
    const dx = wx - ex * t;
    const dy = wy - ey * t;
    nearest = Math.min(nearest, dx * dx + dy * dy);
    if (qy > y !== py > y && wx < (ex * wy) / ey) inside = !inside;
    px = qx;
    py = qy;
  }
  return inside ? -Math.sqrt(nearest) : Math.sqrt(nearest);
}

/** Whether turning the shape by a few degrees changes the picture. */
export function canRotate(shape: ShapeName): boolean {
  return shape !== 'circle' && shape !== 'ring';
}

/** Signed distance of the unrotated shape of radius 1 at (x, y). */
export function shapeDistance(shape: ShapeName, x: number, y: number): number {
  if (shape === 'circle') return Math.sqrt(x * x + y * y) - 1;
  if (shape === 'ring') {
    const r = Math.sqrt(x * x + y * y);
    return Math.max(r - 1, RING_HOLE - r);
  }
  return polygonDistance(CORNERS[shape], x, y);
}

export interface Extent {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
}

/** Bounding box of the shape of radius 1, turned by `rotation` radians (clockwise on screen). */
export function shapeExtent(shape: ShapeName, rotation: number): Extent {
  if (shape === 'circle' || shape === 'ring') return { left: -1, right: 1, top: -1, bottom: 1 };
  const xy = CORNERS[shape];
  const cos = Math.cos(rotation);
  const sin = Math.sin(rotation);
  const xs: number[] = [];
  const ys: number[] = [];
  for (let i = 0; i < xy.length; i += 2) {
    xs.push(xy[i] * cos - xy[i + 1] * sin);
    ys.push(xy[i] * sin + xy[i + 1] * cos);
  }
  return { left: Math.min(...xs), right: Math.max(...xs), top: Math.min(...ys), bottom: Math.max(...ys) };
}
