/** ShapesEval of a pipeline: its pictures, or its tokenizer's reconstructions of perfect ones, before the judge. */
import { renderScene } from '../data/shapes/index.js';
import { Image } from '../io/index.js';
import type { InfinityPipeline } from '../pipeline/index.js';
import {
  judge,
  SHAPES_CATEGORIES,
  type ShapesPrompt,
  type ShapesReport,
  type ShapesResult,
  type ShapesScore,
  type ShapesSummary,
  sceneForPrompt,
  scoreShapes,
  shapesPrompts,
  shapesSummary,
} from './shapes/index.js';

export interface EvaluateOptions {
  readonly promptsPerCategory: number;
  readonly picturesPerPrompt: number;
  readonly seed: number;
  /** Judge reconstructions of perfect pictures: what a generator with this tokenizer can reach at most. */
  readonly ceiling?: boolean;
  readonly guidance?: number | undefined;
  readonly tau?: number | undefined;
  /** Prompts drawn together. */
  readonly batch?: number;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: (pictures: number) => void;
}

export interface Evaluation {
  readonly report: ShapesReport;
  readonly summary: ShapesSummary;
  /** For people. */
  readonly table: string;
}

const DEFAULT_BATCH = 8;

/** What is judged: a pipeline, as far as it is needed here. */
export type Judged = Pick<InfinityPipeline, 'generate' | 'reconstruct' | 'sizes'>;

/** The pictures of some prompts, `picturesPerPrompt` for each, prompt by prompt. */
async function pictures(
  pipe: Judged,
  prompts: readonly ShapesPrompt[],
  first: number,
  options: EvaluateOptions,
): Promise<Image[]> {
  const { picturesPerPrompt: count, seed, signal, guidance, tau } = options;
  if (options.ceiling) {
    const [height, width] = pipe.sizes[0]!;
    const scenes = prompts.flatMap((p, i) =>
      Array.from({ length: count }, (_, j) => sceneForPrompt(p, seed + (first + i) * count + j)),
    );
    const images = scenes.map((scene) => new Image({ width, height, data: renderScene(scene, height) }));
    const results: Image[] = [];
    for (const image of images) results.push((await pipe.reconstruct(image, { signal })).image);
    return results;
  }
  const { images } = await pipe.generate(
    prompts.map((p) => p.prompt),
    {
      count,
      // Every prompt has a seed of its own, so that a score does not depend on the batch.
      seed: prompts.map((_, i) => seed * 1_000_003 + first + i),
      ...{ signal, guidance, tau },
    },
  );
  return images;
}

/** @throws InfinityError and the signal's reason, as `generate` does */
export async function evaluateShapes(pipe: Judged, options: EvaluateOptions): Promise<Evaluation> {
  const { promptsPerCategory, picturesPerPrompt, seed, batch = DEFAULT_BATCH } = options;
  const prompts = shapesPrompts({ seed, perCategory: promptsPerCategory });
  const results: ShapesResult[] = [];
  for (let first = 0; first < prompts.length; first += batch) {
    const some = prompts.slice(first, first + batch);
    const images = await pictures(pipe, some, first, options);
    for (const [i, prompt] of some.entries()) {
      const own = images.slice(i * picturesPerPrompt, (i + 1) * picturesPerPrompt);
      results.push({ prompt, correct: own.map((image) => judge(prompt, image.data, image.width, image.height)) });
    }
    options.onProgress?.(results.length * picturesPerPrompt);
  }
  const report = scoreShapes(results);
  return { report, summary: shapesSummary(report), table: tableOf(report) };
}

const interval = (s: ShapesScore | null): string =>
  s ? `${s.score.toFixed(3)} (${s.low.toFixed(3)}-${s.high.toFixed(3)})` : '-';

function tableOf(report: ShapesReport): string {
  const row = (cells: readonly string[]): string => cells.map((c, i) => c.padEnd(i === 0 ? 16 : 22)).join('');
  const rows = SHAPES_CATEGORIES.map((category) => {
    const { all, seen, unseen } = report.categories[category];
    return row([category, interval(all), interval(seen), interval(unseen)]);
  });
  return [
    row(['category', 'all (95 %)', 'seen', 'unseen']),
    ...rows,
    row(['overall', report.overall.toFixed(3)]),
    `set version ${report.setVersion}`,
  ].join('\n');
}
