import type { ColorName, ShapeName } from '../../data/shapes/index.js';
import { offsetAlong } from '../../data/shapes/scene.js';
import { detectObjects } from './detect.js';
import type { ShapesPrompt, ShapesTarget } from './prompts.js';

/** Two centres must differ by more than this share of the canvas in the stated direction. */
const OFFSET_MIN = 0.1;

/** What a judgement needs to know of an object; the objects of a scene have it too. */
export interface JudgedObject {
  readonly shape: ShapeName | null;
  readonly color: ColorName | null;
  readonly cx: number;
  readonly cy: number;
}

/** Whether the objects are what the prompt asks for, by the rule of its category. */
export function satisfies(prompt: ShapesPrompt, objects: readonly JudgedObject[]): boolean {
  const found = prompt.targets.map((target) => objects.filter((object) => matches(target, object)));
  if (prompt.count !== undefined) return found[0].length === prompt.count && objects.length === prompt.count;
  const { relation } = prompt;
  if (relation === undefined) return found.every((candidates) => candidates.length > 0);
  return found[0].some((a) => found[1].some((b) => offsetAlong(relation, a, b) > OFFSET_MIN));
}

/** An object without a known shape or a known colour is an unknown object: it matches no target, and counts as one too many. */
function matches(target: ShapesTarget, object: JudgedObject): boolean {
  if (object.shape !== target.shape || object.color === null) return false;
  return target.color === undefined || object.color === target.color;
}

/**
 * Whether the picture shows what the prompt asks for. The detection does not see the prompt.
 * @param pixels width*height*3 RGB bytes, row-major.
 */
export function judge(prompt: ShapesPrompt, pixels: Uint8Array, width: number, height: number): boolean {
  return satisfies(prompt, detectObjects(pixels, width, height));
}
