import assert from 'node:assert/strict';
import { renderScene } from '../../lib/data/shapes/index.js';
import { evaluateShapes, type Judged } from '../../lib/eval/evaluate_shapes.js';
import { SHAPES_CATEGORIES, sceneForPrompt, shapesPrompts } from '../../lib/eval/shapes/index.js';
import { Image } from '../../lib/io/index.js';

const SIZE = 64;
const options = { promptsPerCategory: 3, picturesPerPrompt: 2, seed: 4 };
const prompts = shapesPrompts({ seed: options.seed, perCategory: options.promptsPerCategory });
const blank = (): Image => new Image({ width: SIZE, height: SIZE, data: new Uint8Array(SIZE * SIZE * 3).fill(250) });

/** Draws what is asked for where `knows` says so, and nothing elsewhere. Records the seeds of prompts. */
function painter(knows: (prompt: string) => boolean, seeds = new Map<string, unknown[]>()): Judged {
  return {
    sizes: [[SIZE, SIZE]],
    generate: async (texts, request = {}) => {
      const images = [texts].flat().flatMap((text, p) => {
        seeds.set(text, [...(seeds.get(text) ?? []), [request.seed].flat()[p]]);
        const scene = sceneForPrompt(prompts.find(({ prompt }) => prompt === text) ?? assert.fail(), 1);
        const picture = () => new Image({ width: SIZE, height: SIZE, data: renderScene(scene, SIZE) });
        return Array.from({ length: request.count ?? 1 }, () => (knows(text) ? picture() : blank()));
      });
      return { images, milliseconds: 1 };
    },
    reconstruct: async (picture) => ({
      image: new Image(picture),
      psnr: Number.POSITIVE_INFINITY,
      ssim: 1,
      bits: 0,
      bitsPerPixel: 0,
    }),
  };
}

describe('ShapesEval of a pipeline', () => {
  it('gives a perfect painter full marks, one that draws nothing none, each picture its own prompt', async () => {
    const perfect = await evaluateShapes(
      painter(() => true),
      options,
    );
    assert.deepEqual(Object.keys(perfect.summary), [...SHAPES_CATEGORIES, 'overall']);
    assert.ok(perfect.summary.overall > 0.9, JSON.stringify(perfect.summary));
    const nothing = await evaluateShapes(
      painter(() => false),
      options,
    );
    assert.equal(nothing.summary.overall, 0);
    const counts = /^(two|three|four) /;
    const counting = await evaluateShapes(
      painter((text) => counts.test(text)),
      options,
    );
    assert.ok(counting.summary.counting > 0.6);
    assert.equal(counting.summary.position, 0);
    assert.match(perfect.table, /category.*counting.*overall/s);
  });

  it('scores the same in any batch, with a seed of its own for every prompt', async () => {
    const [small, large] = [new Map<string, unknown[]>(), new Map<string, unknown[]>()];
    const half = (text: string) => text.length % 2 === 0;
    const a = await evaluateShapes(painter(half, small), { ...options, batch: 1 });
    const b = await evaluateShapes(painter(half, large), { ...options, batch: 7 });
    assert.deepEqual(a.report, b.report);
    assert.deepEqual(small, large);
    assert.equal(new Set([...small.values()].flat()).size, prompts.length);
  });

  it('finds the ceiling of a tokenizer from reconstructions, and reports progress', async () => {
    const seen: number[] = [];
    const onProgress = (pictures: number) => seen.push(pictures);
    const refused: Judged = { ...painter(() => false), generate: () => assert.fail('nothing is generated') };
    const { summary } = await evaluateShapes(refused, { ...options, ceiling: true, onProgress });
    assert.ok(summary.overall > 0.9, JSON.stringify(summary));
    assert.equal(seen.at(-1), prompts.length * options.picturesPerPrompt);
  });
});
