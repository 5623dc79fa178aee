/**
 * The procedural set: scenes that code draws with captions that code writes. Every sample is a pure function of
 * (set version, seed, index), so a dataset needs no files and its cursor is one integer.
 */

import { invalidArgument } from '../../errors.js';
import { describeScene } from './grammar.js';
import { arrange } from './layout.js';
import { type ShapesSplit, samplePlan } from './plan.js';
import { CounterRandom } from './random.js';
import { renderScene } from './render.js';
import type { Scene } from './scene.js';

export { SHAPES, type ShapeName } from './distance.js';
export { grammarVocabulary } from './grammar.js';
export { BACKGROUNDS, type BackgroundName, COLORS, type ColorName } from './palette.js';
export type { ShapesSplit } from './plan.js';
export { renderScene } from './render.js';
export type { Kind, Relation, Scene, ScenePlan, ShapesObject, Thing } from './scene.js';

/** Enters every draw. Changes with anything that changes a picture, a caption, the split, or a threshold of the judge. */
export const SHAPES_SET_VERSION = 1;

const SIZE_MIN = 16;

export interface ShapesSampleOptions {
  /** Integer from 0 to 2^53 - 1. */
  readonly seed: number;
  /** Position in the endless set, an integer from 0 to 2^53 - 1. */
  readonly index: number;
  /** Side of the picture in pixels, at least 16. The scene does not depend on it. */
  readonly size: number;
  /** 'train' (default) leaves the held-out combinations out. */
  readonly split?: ShapesSplit;
}

export interface ShapesSample {
  /** size*size*3 RGB bytes, row-major. */
  readonly pixels: Uint8Array;
  readonly caption: string;
  readonly scene: Scene;
}

/** One picture with its caption: a pure function of (set version, seed, index, size, split). */
export function shapesSample({ seed, index, size, split = 'train' }: ShapesSampleOptions): ShapesSample {
  requireCounter('seed', seed);
  requireCounter('index', index);
  if (!Number.isInteger(size) || size < SIZE_MIN) invalidArgument('size', `an integer of at least ${SIZE_MIN}`, size);
  if (split !== 'train' && split !== 'all') invalidArgument('split', "'train' or 'all'", split);
  const random = new CounterRandom(SHAPES_SET_VERSION, seed, index);
  const plan = samplePlan(random, split);
  const caption = describeScene(plan, random);
  const scene = arrange(plan, random);
  return { pixels: renderScene(scene, size), caption, scene };
}

function requireCounter(name: string, value: number): void {
  if (!Number.isSafeInteger(value) || value < 0) invalidArgument(name, 'an integer from 0 to 2^53 - 1', value);
}
