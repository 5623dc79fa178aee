import { SHAPES_SET_VERSION } from '../../data/shapes/index.js';
import { satisfies } from './judge.js';
import { SHAPES_CATEGORIES, type ShapesCategory, type ShapesPrompt, sceneForPrompt } from './prompts.js';

/** A share of correct pictures with its 95 % Wilson interval. */
export interface ShapesScore {
  readonly score: number;
  readonly low: number;
  readonly high: number;
  readonly correct: number;
  readonly pictures: number;
}

export interface ShapesCategoryReport {
  readonly all: ShapesScore;
  /** null: no such prompt was judged. */
  readonly seen: ShapesScore | null;
  readonly unseen: ShapesScore | null;
}

export interface ShapesReport {
  readonly setVersion: number;
  readonly categories: Readonly<Record<ShapesCategory, ShapesCategoryReport>>;
  /** Mean of the six categories' scores. */
  readonly overall: number;
}

/** The judgements of one prompt's pictures (four, as a rule). */
export interface ShapesResult {
  readonly prompt: ShapesPrompt;
  readonly correct: readonly boolean[];
}

/** Normal quantile of a two-sided 95 % interval. */
const Z95 = 1.959963984540054;

/** Wilson's score interval (Wilson 1927): stays inside 0..1 and does not collapse at 0 and 1. Without pictures: NaN in 0..1. */
export function wilson(correct: number, pictures: number): ShapesScore {
  if (pictures === 0) return { score: Number.NaN, low: 0, high: 1, correct, pictures };
  const p = correct / pictures;
  const z2 = Z95 * Z95;
  const center = (p + z2 / (2 * pictures)) / (1 + z2 / pictures);
  const half = (Z95 * Math.sqrt((p * (1 - p)) / pictures + z2 / (4 * pictures * pictures))) / (1 + z2 / pictures);
  return { score: p, low: Math.max(0, center - half), high: Math.min(1, center + half), correct, pictures };
}

/** Scores of every category over all pictures, of seen and of unseen combinations, and the mean of the six. */
export function scoreShapes(results: readonly ShapesResult[]): ShapesReport {
  const scoreOf = (some: readonly ShapesResult[]) => {
    const flat = some.flatMap((result) => result.correct);
    return wilson(flat.filter(Boolean).length, flat.length);
  };
  const categories = byCategory((category): ShapesCategoryReport => {
    const own = results.filter((result) => result.prompt.category === category);
    const seen = own.filter((result) => result.prompt.seen);
    const unseen = own.filter((result) => !result.prompt.seen);
    return {
      all: scoreOf(own),
      seen: seen.length > 0 ? scoreOf(seen) : null,
      unseen: unseen.length > 0 ? scoreOf(unseen) : null,
    };
  });
  const overall = mean(SHAPES_CATEGORIES.map((category) => categories[category].all.score));
  return { setVersion: SHAPES_SET_VERSION, categories, overall };
}

export type ShapesSummary = Readonly<Record<ShapesCategory | 'overall', number>>;

/** The report in one flat object, keys in a fixed order: what `--json` prints. */
export function shapesSummary(report: ShapesReport): ShapesSummary {
  return { ...byCategory((category) => report.categories[category].all.score), overall: report.overall };
}

/**
 * Chance level of each category for a list of prompts: how often a perfect picture of one prompt satisfies another prompt
 * of the list, over all ordered pairs of different places in it. What shuffled captions must fall to.
 */
export function shapesChance(prompts: readonly ShapesPrompt[], seed: number): ShapesSummary {
  const levels = byCategory((category) => {
    const own = prompts.filter((prompt) => prompt.category === category);
    const scenes = own.map((prompt, i) => sceneForPrompt(prompt, seed + i).objects);
    let hits = 0;
    for (const [i, prompt] of own.entries())
      for (const [j, objects] of scenes.entries()) if (i !== j && satisfies(prompt, objects)) hits++;
    return hits / (own.length * (own.length - 1));
  });
  return { ...levels, overall: mean(Object.values(levels)) };
}

function byCategory<T>(value: (category: ShapesCategory) => T): Record<ShapesCategory, T> {
  return {
    single_object: value('single_object'),
    two_object: value('two_object'),
    counting: value('counting'),
    colors: value('colors'),
    position: value('position'),
    color_attr: value('color_attr'),
  };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
