/**
 * ShapesEval: prompts in GenEval's six categories (Ghosh et al. 2023), a judge that reads the picture alone, and scores.
 * The definition of the set, the judge and the categories is docs/shapes-eval.md.
 */

export { type DetectedObject, detectObjects } from './detect.js';
export { judge, satisfies } from './judge.js';
export {
  SHAPES_CATEGORIES,
  type ShapesCategory,
  type ShapesPrompt,
  type ShapesPromptOptions,
  type ShapesTarget,
  sceneForPrompt,
  shapesPrompts,
} from './prompts.js';
export {
  type ShapesCategoryReport,
  type ShapesReport,
  type ShapesResult,
  type ShapesScore,
  type ShapesSummary,
  scoreShapes,
  shapesChance,
  shapesSummary,
  wilson,
} from './score.js';
