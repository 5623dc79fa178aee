/** The training mix: how often each kind of scene is drawn, and of what. */

import { isHeldOut, KINDS } from './grammar.js';
import type { CounterRandom } from './random.js';
import { RELATIONS, type SceneKind, type ScenePlan, SIZES, sameKind, type Thing } from './scene.js';

/** 'train' never shows a held-out combination; 'all' draws from everything. */
export type ShapesSplit = 'train' | 'all';

const MIX: readonly { readonly weight: number; readonly kind: SceneKind }[] = [
  { weight: 30, kind: 'one' },
  { weight: 25, kind: 'two' },
  { weight: 20, kind: 'relation' },
  { weight: 15, kind: 'counted' },
  { weight: 10, kind: 'many' },
];

/** Share of objects (in scenes of one or two) whose size or fill enters the caption. */
const SIZED = 0.08;
const PATTERNED = 0.06;

/** Draws a plan from the training mix. A held-out one is drawn again within its kind, so that the mix stays as stated. */
export function samplePlan(random: CounterRandom, split: ShapesSplit): ScenePlan {
  const { kind } = random.pickWeighted(MIX);
  for (;;) {
    const plan = samplePlanOf(kind, random);
    if (split === 'all' || !isHeldOut(plan)) return plan;
  }
}

function samplePlanOf(kind: SceneKind, random: CounterRandom): ScenePlan {
  if (kind === 'counted') {
    const thing = solid(random);
    return { kind, things: new Array<Thing>(2 + random.below(3)).fill(thing) };
  }
  const count = kind === 'one' ? 1 : kind === 'many' ? 3 + random.below(2) : 2;
  const things: Thing[] = [];
  while (things.length < count) {
    const thing = kind === 'many' ? solid(random) : attributed(random, things.length === 0);
    if (!things.some((other) => sameKind(other, thing))) things.push(thing);
  }
  return kind === 'relation' ? { kind, things, relation: random.pick(RELATIONS) } : { kind, things };
}

function solid(random: CounterRandom): Thing {
  return { ...random.pick(KINDS), fill: 'solid' };
}

/** Only the first of two may be sized: two large ones leave no room for a relation. */
function attributed(random: CounterRandom, maySize: boolean): Thing {
  const kind = random.pick(KINDS);
  const fill = random.chance(PATTERNED) ? random.pick(['striped', 'dotted'] as const) : 'solid';
  return maySize && random.chance(SIZED) ? { ...kind, fill, size: random.pick(SIZES) } : { ...kind, fill };
}
