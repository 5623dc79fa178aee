/** Gives the things of a plan their places: inside the canvas, apart from each other, in the stated relation. */

import { InfinityError } from '../../errors.js';
import { canRotate } from './distance.js';
import { BACKGROUNDS } from './palette.js';
import type { CounterRandom } from './random.js';
import { offsetAlong, type Relation, type Scene, type ScenePlan, type ShapesObject, type Thing } from './scene.js';

const RADIUS_MIN = 0.1;
const MAX_ROTATION = (15 * Math.PI) / 180;
/** Least distance of an object from the canvas edge. */
const EDGE = 0.03;
/** Objects keep this far apart: above 15 % of the largest radius, and three pixels at 64, which anti-aliasing cannot bridge. */
const GAP = 0.05;
/** In a relation the stated axis leads the other by this factor, so that the words fit the picture. */
const RELATION_LEAD = 1.3;

const RADII_BY_COUNT: Readonly<Record<number, readonly [low: number, high: number]>> = {
  1: [0.14, 0.32],
  2: [0.12, 0.25],
  3: [0.11, 0.2],
  4: [0.1, 0.17],
};
const RADII_BY_SIZE = { small: [0.1, 0.14], large: [0.22, 0.32] } as const;

const TRIES_A_RADIUS = 24;
const ROUNDS = 200;
const SHRINK = 0.94;

/** Draws a scene that shows `plan`. A layout that does not fit is drawn again, a little smaller each time. */
export function arrange(plan: ScenePlan, random: CounterRandom): Scene {
  const background = random.pick(BACKGROUNDS);
  let radii = drawRadii(plan, random);
  for (let round = 0; round < ROUNDS; round++) {
    for (let attempt = 0; attempt < TRIES_A_RADIUS; attempt++) {
      const objects = place(plan, radii, random);
      if (objects) return { background, objects };
    }
    radii = radii.map((radius, i) => Math.max(radiusRange(plan, plan.things[i])[0], radius * SHRINK));
  }
  throw new InfinityError('INTERNAL', `No room for ${plan.things.length} objects on one canvas.`, { value: plan });
}

/** Without a stated size the smallest radius is open to a crowded scene; a stated size keeps its range. */
function radiusRange(plan: ScenePlan, thing: Thing): readonly [number, number] {
  return thing.size ? RADII_BY_SIZE[thing.size] : [RADIUS_MIN, RADII_BY_COUNT[plan.things.length][1]];
}

function drawRadii(plan: ScenePlan, random: CounterRandom): number[] {
  const draw = (thing: Thing) =>
    random.between(...(thing.size ? RADII_BY_SIZE[thing.size] : RADII_BY_COUNT[plan.things.length]));
  if (plan.kind !== 'counted') return plan.things.map(draw);
  const common = draw(plan.things[0]);
  return plan.things.map(() => common);
}

function place(plan: ScenePlan, radii: readonly number[], random: CounterRandom): ShapesObject[] | undefined {
  const objects: ShapesObject[] = [];
  for (const [i, thing] of plan.things.entries()) {
    const radius = radii[i];
    const low = EDGE + radius;
    const object: ShapesObject = {
      ...thing,
      cx: random.between(low, 1 - low),
      cy: random.between(low, 1 - low),
      radius,
      rotation: canRotate(thing.shape) ? random.between(-MAX_ROTATION, MAX_ROTATION) : 0,
    };
    if (objects.some((other) => !apart(object, other))) return undefined;
    objects.push(object);
  }
  return plan.relation === undefined || leads(plan.relation, objects[0], objects[1]) ? objects : undefined;
}

function apart(a: ShapesObject, b: ShapesObject): boolean {
  return Math.hypot(a.cx - b.cx, a.cy - b.cy) >= a.radius + b.radius + GAP;
}

function leads(relation: Relation, a: ShapesObject, b: ShapesObject): boolean {
  const across = relation === 'left' || relation === 'right' ? a.cy - b.cy : a.cx - b.cx;
  return offsetAlong(relation, a, b) >= RELATION_LEAD * Math.abs(across);
}
