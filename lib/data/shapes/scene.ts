/** What a scene is: things (what a caption can say), objects (things with a place), and the picture's background. */

import type { ShapeName } from './distance.js';
import type { BackgroundName, ColorName } from './palette.js';

export const FILLS = ['solid', 'striped', 'dotted'] as const;
export type Fill = (typeof FILLS)[number];

export const SIZES = ['small', 'large'] as const;
export type Size = (typeof SIZES)[number];

/** Where the first of two objects lies, seen from the second. */
export const RELATIONS = ['left', 'right', 'above', 'below'] as const;
export type Relation = (typeof RELATIONS)[number];

export const OPPOSITE: Readonly<Record<Relation, Relation>> = {
  left: 'right',
  right: 'left',
  above: 'below',
  below: 'above',
};

/** A shape of a colour: the unit of which combinations are made. */
export interface Kind {
  readonly shape: ShapeName;
  readonly color: ColorName;
}

export interface Thing extends Kind {
  readonly fill: Fill;
  readonly size?: Size;
}

/** A thing with its place. Lengths in units of the canvas side (0..1, y down), `radius` of the circumscribed circle, `rotation` in radians, clockwise. */
export interface ShapesObject extends Thing {
  readonly cx: number;
  readonly cy: number;
  readonly radius: number;
  readonly rotation: number;
}

export const SCENE_KINDS = ['one', 'two', 'relation', 'counted', 'many'] as const;
export type SceneKind = (typeof SCENE_KINDS)[number];

/** What a scene shall hold, before anything has a place. `counted` repeats one thing; `relation` holds between the first two. */
export interface ScenePlan {
  readonly kind: SceneKind;
  readonly things: readonly Thing[];
  readonly relation?: Relation;
}

export interface Scene {
  readonly background: BackgroundName;
  readonly objects: readonly ShapesObject[];
}

export function sameKind(a: Kind, b: Kind): boolean {
  return a.shape === b.shape && a.color === b.color;
}

/** How far `a` lies from `b` in the stated direction (negative: on the other side). */
export function offsetAlong(relation: Relation, a: { cx: number; cy: number }, b: { cx: number; cy: number }): number {
  if (relation === 'left') return b.cx - a.cx;
  if (relation === 'right') return a.cx - b.cx;
  return relation === 'above' ? b.cy - a.cy : a.cy - b.cy;
}
