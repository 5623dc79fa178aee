/**
 * The language of the set: its words, its caption forms, and the combinations that training never shows.
 * The first form of each kind is the one that the evaluation prompts use.
 */

import { SHAPES, type ShapeName } from './distance.js';
import { COLORS, type ColorName } from './palette.js';
import { type CounterRandom, hash32 } from './random.js';
import { type Fill, type Kind, OPPOSITE, type Relation, type SceneKind, type ScenePlan, type Thing } from './scene.js';

// ------------------------------------------------------------------------------------------------- words

interface Word {
  readonly weight: number;
  readonly text: string;
}

const words = (first: string, ...others: readonly string[]): readonly Word[] => [
  { weight: 9, text: first },
  ...others.map((text) => ({ weight: 1, text })),
];

/** A plain noun and its synonyms; the plural adds `s`, or `es` after a hiss. */
const NOUNS: Readonly<Record<ShapeName, readonly Word[]>> = {
  circle: words('circle', 'disc'),
  square: words('square', 'box'),
  triangle: words('triangle'),
  star: words('star'),
  cross: words('cross'),
  ring: words('ring', 'hoop'),
};
const ADJECTIVES: Readonly<Record<ColorName, readonly Word[]>> = {
  red: words('red'),
  green: words('green'),
  blue: words('blue'),
  yellow: words('yellow'),
  orange: words('orange'),
  purple: words('purple', 'violet'),
  cyan: words('cyan', 'turquoise'),
  pink: words('pink'),
};
const SIZE_WORDS = { small: words('small', 'little'), large: words('large', 'big') } as const;
const FILL_WORDS: Readonly<Record<Exclude<Fill, 'solid'>, readonly Word[]>> = {
  striped: words('striped'),
  dotted: words('dotted', 'spotted'),
};
const RELATION_WORDS: Readonly<Record<Relation, readonly Word[]>> = {
  left: words('left of', 'to the left of'),
  right: words('right of', 'to the right of'),
  above: words('above', 'over'),
  below: words('below', 'under', 'beneath'),
};
const NUMBERS: Readonly<Record<number, string>> = { 2: 'two', 3: 'three', 4: 'four' };

const plural = (noun: string): string => (/(s|x)$/.test(noun) ? `${noun}es` : `${noun}s`);
const withArticle = (phrase: string): string => `${/^[aeiou]/.test(phrase) ? 'an' : 'a'} ${phrase}`;

// ------------------------------------------------------------------------------------------------- forms

interface Form {
  readonly weight: number;
  /** Slots: {a1} "a red circle", {the1} "the red circle", {np1} "red circle", {noun1} {color1}, {aNoun1} "a circle", {rel}, {n}, {plural}, {list}. */
  readonly text: string;
  /** Only where every thing is told by colour and noun alone, and the nouns differ. */
  readonly plain?: true;
}

const FORMS: Readonly<Record<SceneKind, readonly Form[]>> = {
  one: [
    { weight: 7, text: '{a1}' },
    { weight: 1, text: 'there is {a1}' },
    { weight: 1, text: 'a picture of {a1}' },
    { weight: 0.5, text: 'one {np1}' },
    { weight: 0.5, text: '{aNoun1} that is {color1}', plain: true },
  ],
  two: [
    { weight: 7, text: '{a1} and {a2}' },
    { weight: 1, text: '{a1} with {a2}' },
    { weight: 1, text: 'there is {a1} and {a2}' },
    { weight: 0.5, text: 'a picture of {a1} and {a2}' },
    { weight: 0.5, text: 'the {noun1} is {color1} and the {noun2} is {color2}', plain: true },
  ],
  relation: [
    { weight: 7, text: '{a1} {rel} {a2}' },
    { weight: 1, text: 'there is {a1} {rel} {a2}' },
    { weight: 1, text: '{rel} {the2} there is {a1}' },
    { weight: 1, text: '{the1} is {rel} {the2}' },
  ],
  counted: [
    { weight: 7, text: '{n} {plural}' },
    { weight: 1, text: 'there are {n} {plural}' },
    { weight: 1, text: '{n} of the {plural}' },
    { weight: 1, text: 'a group of {n} {plural}' },
  ],
  many: [
    { weight: 8, text: '{list}' },
    { weight: 1, text: 'there are {list}' },
    { weight: 1, text: 'a picture of {list}' },
  ],
};

/** How often a caption of a kind leaves every colour out, as the prompts of three categories do. */
const COLORLESS: Readonly<Record<SceneKind, number>> = { one: 0.35, two: 0.4, relation: 0.5, counted: 0.1, many: 0.1 };

/**
 * One caption for `plan`. Synonyms, the order of two things and the side from which a relation is told are drawn from `random`;
 * a colourless caption is drawn only where nouns alone still tell the things apart (or `colors` decides).
 */
export function describeScene(plan: ScenePlan, random: CounterRandom): string {
  const counted = plan.kind === 'counted';
  const nounsDiffer = counted || new Set(plan.things.map((thing) => thing.shape)).size === plan.things.length;
  const bare = plan.things.every((thing) => thing.fill === 'solid' && !thing.size);
  const colored = !random.chance(COLORLESS[plan.kind]) || !nounsDiffer || !bare;
  const form = random.pickWeighted(FORMS[plan.kind].filter((f) => !f.plain || (colored && bare && nounsDiffer)));
  const swap = plan.things.length === 2 && !counted && random.chance(0.5);
  const things = swap ? [plan.things[1], plan.things[0]] : plan.things;
  return fillForm(form, things, swap && plan.relation ? OPPOSITE[plan.relation] : plan.relation, colored, random);
}

/** The evaluation's phrasing: the first form and the first word of everything. */
export function canonicalCaption(plan: ScenePlan, colored: boolean): string {
  return fillForm(FORMS[plan.kind][0], plan.things, plan.relation, colored, undefined);
}

function fillForm(
  form: Form,
  things: readonly Thing[],
  relation: Relation | undefined,
  colored: boolean,
  random: CounterRandom | undefined,
): string {
  const say = (options: readonly Word[]) => (random ? random.pickWeighted(options) : options[0]).text;
  const slots: Record<string, string> = {};
  for (const [i, thing] of things.entries()) {
    const noun = say(NOUNS[thing.shape]);
    const color = say(ADJECTIVES[thing.color]);
    const parts = [noun];
    if (colored) parts.unshift(color);
    if (thing.fill !== 'solid') parts.unshift(say(FILL_WORDS[thing.fill]));
    if (thing.size) parts.unshift(say(SIZE_WORDS[thing.size]));
    const phrase = parts.join(' ');
    slots[`np${i + 1}`] = phrase;
    slots[`a${i + 1}`] = withArticle(phrase);
    slots[`the${i + 1}`] = `the ${phrase}`;
    slots[`noun${i + 1}`] = noun;
    slots[`aNoun${i + 1}`] = withArticle(noun);
    slots[`color${i + 1}`] = color;
  }
  const articled = things.map((_, i) => slots[`a${i + 1}`]);
  slots.list = `${articled.slice(0, -1).join(', ')} and ${articled.at(-1)}`;
  slots.n = NUMBERS[things.length];
  slots.plural = plural(slots.np1);
  if (relation) slots.rel = say(RELATION_WORDS[relation]);
  return form.text.replaceAll(/\{(\w+)\}/g, (_, name: string) => slots[name]);
}

/** Every word that a caption can hold, and the comma; sorted. */
export function grammarVocabulary(): string[] {
  const texts = ['a an the and ,', ...Object.values(NUMBERS)];
  for (const forms of Object.values(FORMS)) texts.push(...forms.map((form) => form.text.replaceAll(/\{\w+\}/g, ' ')));
  const lexicons = [NOUNS, ADJECTIVES, SIZE_WORDS, FILL_WORDS, RELATION_WORDS];
  for (const lexicon of lexicons)
    texts.push(...Object.values(lexicon).flatMap((list) => list.map((word) => word.text)));
  texts.push(...Object.values(NOUNS).flatMap((list) => list.map((word) => plural(word.text))));
  return [...new Set(texts.join(' ').split(' ').filter(Boolean))].sort();
}

// ------------------------------------------------------------------------------------------------- held out

/** Every (shape, colour) pair, in a fixed order. */
export const KINDS: readonly Kind[] = SHAPES.flatMap((shape) => COLORS.map((color) => ({ shape, color })));

/** One in ten of `keys`, chosen by hash, so that the choice depends on nothing but the list. */
function oneInTen(keys: readonly string[], salt: number): ReadonlySet<string> {
  const rank = (key: string) => hash32(salt, ...Array.from(key, (c) => c.charCodeAt(0)));
  const ordered = [...keys].sort((a, b) => rank(a) - rank(b));
  return new Set(ordered.slice(0, Math.round(keys.length / 10)));
}

const kindKey = (kind: Kind): string => `${kind.color} ${kind.shape}`;
const pairKey = (a: Kind, b: Kind): string => [kindKey(a), kindKey(b)].sort().join(' + ');
const shapesKey = (a: ShapeName, b: ShapeName): string => [a, b].sort().join(' + ');
const countKey = (count: number, kind: Kind): string => `${count} ${kindKey(kind)}`;
function relationKey(a: ShapeName, relation: Relation, b: ShapeName): string {
  return relation === 'left' || relation === 'above' ? `${a} ${relation} ${b}` : `${b} ${OPPOSITE[relation]} ${a}`;
}

const HELD_OUT_PAIRS = oneInTen(
  KINDS.flatMap((a, i) => KINDS.slice(i + 1).map((b) => pairKey(a, b))),
  1,
);
const HELD_OUT_SHAPES: ReadonlySet<string> = new Set([shapesKey('circle', 'star'), shapesKey('square', 'ring')]);
const HELD_OUT_COUNTS = oneInTen(
  [2, 3, 4].flatMap((count) => KINDS.map((kind) => countKey(count, kind))),
  2,
);
const HELD_OUT_RELATIONS = oneInTen(
  (['left', 'above'] as const).flatMap((relation) =>
    SHAPES.flatMap((a) => SHAPES.filter((b) => b !== a).map((b) => relationKey(a, relation, b))),
  ),
  3,
);

/** Two (shape, colour) pairs that never meet in a training scene: one unordered combination in ten. */
export function isHeldOutPair(a: Kind, b: Kind): boolean {
  return HELD_OUT_PAIRS.has(pairKey(a, b));
}

/** Two shapes that training captions never join by "and" (or "with") as a scene of two, whatever their colours. */
export function isHeldOutConjunction(a: ShapeName, b: ShapeName): boolean {
  return HELD_OUT_SHAPES.has(shapesKey(a, b));
}

/** A number of one shape in one colour that training scenes never show as a counted group: one triple in ten. */
export function isHeldOutCount(count: number, kind: Kind): boolean {
  return HELD_OUT_COUNTS.has(countKey(count, kind));
}

/** A relation between two shapes that training captions never state, from either side and in any colours: one in ten. */
export function isHeldOutRelation(a: ShapeName, relation: Relation, b: ShapeName): boolean {
  return HELD_OUT_RELATIONS.has(relationKey(a, relation, b));
}

/** Whether a plan holds anything that training must not show. */
export function isHeldOut(plan: ScenePlan): boolean {
  const [first, second] = plan.things;
  if (plan.kind === 'counted') return isHeldOutCount(plan.things.length, first);
  if (plan.kind === 'two' && isHeldOutConjunction(first.shape, second.shape)) return true;
  if (plan.relation && isHeldOutRelation(first.shape, plan.relation, second.shape)) return true;
  return plan.things.some((a, i) => plan.things.slice(i + 1).some((b) => isHeldOutPair(a, b)));
}
