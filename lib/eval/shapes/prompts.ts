/** The evaluation's prompts: six categories, each listed by a seed, half from combinations that training never shows. */

import { SHAPES, type ShapeName } from '../../data/shapes/distance.js';
import {
  canonicalCaption,
  isHeldOutConjunction,
  isHeldOutCount,
  isHeldOutPair,
  isHeldOutRelation,
  KINDS,
} from '../../data/shapes/grammar.js';
import { SHAPES_SET_VERSION } from '../../data/shapes/index.js';
import { arrange } from '../../data/shapes/layout.js';
import { COLORS, type ColorName } from '../../data/shapes/palette.js';
import { CounterRandom } from '../../data/shapes/random.js';
import {
  type Kind,
  RELATIONS,
  type Relation,
  type Scene,
  type SceneKind,
  type ScenePlan,
  type Thing,
} from '../../data/shapes/scene.js';
import { invalidArgument } from '../../errors.js';

export const SHAPES_CATEGORIES = [
  'single_object',
  'two_object',
  'counting',
  'colors',
  'position',
  'color_attr',
] as const;
export type ShapesCategory = (typeof SHAPES_CATEGORIES)[number];

/** A shape, and its colour where the prompt names one. */
export interface ShapesTarget {
  readonly shape: ShapeName;
  readonly color?: ColorName;
}

export interface ShapesPrompt {
  readonly category: ShapesCategory;
  readonly prompt: string;
  /** Whether training captions hold this combination. */
  readonly seen: boolean;
  /** What must be there: one or two different targets; in `counting` one target, `count` times and nothing else. */
  readonly targets: readonly ShapesTarget[];
  readonly count?: number;
  /** Where the first target lies, seen from the second. */
  readonly relation?: Relation;
}

const SCENE_KIND: Readonly<Record<ShapesCategory, SceneKind>> = {
  single_object: 'one',
  two_object: 'two',
  counting: 'counted',
  colors: 'one',
  position: 'relation',
  color_attr: 'two',
};

export interface ShapesPromptOptions {
  readonly seed: number;
  readonly perCategory: number;
}

/**
 * `perCategory` prompts for each category, in the order of `SHAPES_CATEGORIES`: a pure function of (set version, seed, perCategory).
 * Half of a category's prompts are unseen where it has held-out combinations (not `single_object` and `colors`: every shape and
 * every coloured shape is trained). A category with fewer different prompts repeats them evenly.
 */
export function shapesPrompts({ seed, perCategory }: ShapesPromptOptions): ShapesPrompt[] {
  if (!Number.isSafeInteger(seed) || seed < 0) invalidArgument('seed', 'an integer from 0 to 2^53 - 1', seed);
  if (!Number.isInteger(perCategory) || perCategory < 1)
    invalidArgument('perCategory', 'a positive integer', perCategory);
  return SHAPES_CATEGORIES.flatMap((category, i) => {
    const random = new CounterRandom(SHAPES_SET_VERSION, seed, i);
    const all = allPrompts(category);
    const unseen = all.filter((prompt) => !prompt.seen);
    const unseenCount = unseen.length > 0 ? Math.floor(perCategory / 2) : 0;
    const seen = all.filter((prompt) => prompt.seen);
    return random.shuffled([...deal(seen, perCategory - unseenCount, random), ...deal(unseen, unseenCount, random)]);
  });
}

/** `count` items in random order; none comes again before all have come. */
function deal<T>(items: readonly T[], count: number, random: CounterRandom): T[] {
  const out: T[] = [];
  while (out.length < count) out.push(...random.shuffled(items).slice(0, count - out.length));
  return out;
}

const differentShapes = SHAPES.flatMap((a) => SHAPES.filter((b) => b !== a).map((b) => [a, b] as const));

function allPrompts(category: ShapesCategory): ShapesPrompt[] {
  const make = (
    seen: boolean,
    targets: readonly ShapesTarget[],
    rest: { count?: number; relation?: Relation } = {},
  ) => {
    const draft = { category, prompt: '', seen, targets, ...rest };
    return { ...draft, prompt: canonicalCaption(planOf(draft), targets[0].color !== undefined) };
  };
  switch (category) {
    case 'single_object':
      return SHAPES.map((shape) => make(true, [{ shape }]));
    case 'colors':
      return KINDS.map((kind) => make(true, [kind]));
    case 'counting':
      return [2, 3, 4].flatMap((count) => KINDS.map((kind) => make(!isHeldOutCount(count, kind), [kind], { count })));
    case 'two_object':
      return differentShapes.map(([a, b]) => make(!isHeldOutConjunction(a, b), [{ shape: a }, { shape: b }]));
    case 'position':
      return RELATIONS.flatMap((relation) =>
        differentShapes.map(([a, b]) =>
          make(!isHeldOutRelation(a, relation, b), [{ shape: a }, { shape: b }], { relation }),
        ),
      );
    case 'color_attr':
      // Shape pairs that captions never join are left out: an unseen prompt here is unseen by its colours.
      return KINDS.flatMap((a) =>
        KINDS.filter((b) => bindsColors(a, b)).map((b) => make(!isHeldOutPair(a, b), [a, b])),
      );
  }
}

function bindsColors(a: Kind, b: Kind): boolean {
  return a.shape !== b.shape && a.color !== b.color && !isHeldOutConjunction(a.shape, b.shape);
}

/** The prompt as a plan; colours that it leaves open are red here and drawn by `sceneForPrompt`. */
function planOf(prompt: ShapesPrompt, colors: readonly ColorName[] = []): ScenePlan {
  const things = prompt.targets.map(
    (target, i): Thing => ({ shape: target.shape, color: target.color ?? colors[i] ?? COLORS[0], fill: 'solid' }),
  );
  const repeated = prompt.count ? new Array<Thing>(prompt.count).fill(things[0]) : things;
  return { kind: SCENE_KIND[prompt.category], things: repeated, relation: prompt.relation };
}

/** A scene that satisfies the prompt: for judging the judge, and a tokenizer's ceiling. A pure function of its arguments. */
export function sceneForPrompt(prompt: ShapesPrompt, seed: number): Scene {
  const random = new CounterRandom(SHAPES_SET_VERSION, seed, SHAPES_CATEGORIES.indexOf(prompt.category));
  const colors = prompt.targets.map(() => random.pick(COLORS));
  return arrange(planOf(prompt, colors), random);
}
