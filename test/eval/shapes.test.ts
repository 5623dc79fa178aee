import assert from 'node:assert/strict';
import { shapesSample } from '../../lib/data/shapes/index.js';
import { CounterRandom } from '../../lib/data/shapes/random.js';
import { renderScene } from '../../lib/data/shapes/render.js';
import { InfinityError } from '../../lib/errors.js';
import {
  detectObjects,
  judge,
  SHAPES_CATEGORIES,
  type ShapesPrompt,
  type ShapesSummary,
  sceneForPrompt,
  scoreShapes,
  shapesChance,
  shapesPrompts,
  shapesSummary,
} from '../../lib/eval/shapes/index.js';

type Picture = (prompt: ShapesPrompt, index: number) => Uint8Array | Promise<Uint8Array>;

async function scores(prompts: readonly ShapesPrompt[], size: number, picture: Picture): Promise<ShapesSummary> {
  const results = [];
  for (const [i, prompt] of prompts.entries())
    results.push({ prompt, correct: [judge(prompt, await picture(prompt, i), size, size)] });
  return shapesSummary(scoreShapes(results));
}

const render = (size: number) => (prompt: ShapesPrompt, seed: number) =>
  renderScene(sceneForPrompt(prompt, seed), size);
const rounded = (summary: ShapesSummary) =>
  Object.entries(summary)
    .map(([name, score]) => `${name} ${score.toFixed(3)}`)
    .join(', ');

describe('shapes judge', () => {
  for (const size of [64, 128])
    it(`is right on the set's own renders at ${size} pixels in every category`, async () => {
      const found = await scores(shapesPrompts({ seed: 1, perCategory: 200 }), size, render(size));
      for (const category of SHAPES_CATEGORIES) assert.ok(found[category] >= 0.995, rounded(found));
    });

  it('reads every object of training scenes, patterned and crowded ones included', () => {
    let wrong = 0;
    for (let index = 0; index < 600; index++) {
      const { pixels, scene } = shapesSample({ seed: 6, index, size: 64 });
      const found = detectObjects(pixels, 64, 64);
      // Each object is found where it is, by its own name; nothing else is found.
      const right =
        found.length === scene.objects.length &&
        scene.objects.every((o) =>
          found.some((f) => f.shape === o.shape && f.color === o.color && Math.hypot(f.cx - o.cx, f.cy - o.cy) < 0.03),
        );
      if (!right) wrong++;
    }
    assert.ok(wrong <= 3, `${wrong} of 600 scenes misread`);
  });

  it('falls to the computed chance level when captions are shuffled', async () => {
    const prompts = shapesPrompts({ seed: 2, perCategory: 100 });
    const chance = shapesChance(prompts, 0);
    const levels = {
      single_object: 1 / 6,
      two_object: 0.14,
      counting: 0.016,
      colors: 1 / 48,
      position: 0.05,
      color_attr: 0.002,
    };
    for (const category of SHAPES_CATEGORIES)
      assert.ok(Math.abs(chance[category] - levels[category]) < 0.012, rounded(chance));
    const within = (i: number) => Math.floor(i / 100) * 100;
    const shuffled = await scores(prompts, 64, (_, i) => {
      const other = within(i) + ((i + 31) % 100);
      return renderScene(sceneForPrompt(prompts[other], i), 64);
    });
    // Four standard deviations of a hundred draws, and one draw where the level is near nothing.
    for (const category of SHAPES_CATEGORIES) {
      const p = chance[category];
      assert.ok(Math.abs(shuffled[category] - p) <= 4 * Math.sqrt((p * (1 - p)) / 100) + 0.01, rounded(shuffled));
    }
  });

  it('gives 0 for noise and for flat pictures', async () => {
    const prompts = shapesPrompts({ seed: 3, perCategory: 20 });
    const random = new CounterRandom(99);
    const noise = (step: number) => (): Uint8Array => {
      const cells = Uint8Array.from({ length: 64 * 64 * 3 }, () => random.below(256));
      const cell = (at: number) => Math.floor(at / step) * step;
      return cells.map((_, at) => {
        const [x, y, c] = [Math.floor(at / 3) % 64, Math.floor(at / 192), at % 3];
        return cells[(cell(y) * 64 + cell(x)) * 3 + c];
      });
    };
    const flat = (rgb: number): Uint8Array => new Uint8Array(64 * 64 * 3).fill(rgb);
    const pictures: Picture[] = [noise(1), noise(8), () => flat(0), () => flat(128), () => flat(255)];
    for (const picture of pictures) assert.equal((await scores(prompts, 64, picture)).overall, 0);
  });

  it('loses score by blur', async function () {
    const prompts = shapesPrompts({ seed: 4, perCategory: 30 });
    const found = await scores(prompts, 64, (prompt, i) => blur(blur(blur(render(64)(prompt, i), 64), 64), 64));
    this.test!.title += `: overall ${found.overall.toFixed(3)}, counting ${found.counting.toFixed(3)}`;
    assert.ok(found.overall < 0.99 && found.overall > 0.5, rounded(found));
  });

  it('loses score by JPEG at quality 60', async function () {
    const sharp = await import('sharp').then(
      (module) => module.default,
      () => undefined,
    );
    if (!sharp) {
      this.test!.title += ': sharp is not installed';
      return this.skip();
    }
    const prompts = shapesPrompts({ seed: 5, perCategory: 30 });
    const found = await scores(prompts, 64, async (prompt, i) => {
      const raw = { width: 64, height: 64, channels: 3 } as const;
      const jpeg = await sharp(render(64)(prompt, i), { raw }).jpeg({ quality: 60 }).toBuffer();
      return new Uint8Array(await sharp(jpeg).raw().toBuffer());
    });
    this.test!.title += `: overall ${found.overall.toFixed(3)}, counting ${found.counting.toFixed(3)}`;
    assert.ok(found.overall < 0.99 && found.overall > 0.5, rounded(found));
  });

  it('counts an object that it does not know as one too many', () => {
    const prompt = shapesPrompts({ seed: 1, perCategory: 20 }).find((p) => p.category === 'counting' && p.count === 2)!;
    const scene = sceneForPrompt(prompt, 1);
    const pixels = renderScene(scene, 64);
    assert.equal(judge(prompt, pixels, 64, 64), true);
    const spoiled = pixels.slice();
    // A brown bar along the upper edge: no object of the set has its colour.
    for (let at = 0; at < 2 * 64 * 3; at++) spoiled[at] = [90, 40, 20][at % 3];
    assert.equal(detectObjects(spoiled, 64, 64).length, 3);
    assert.equal(judge(prompt, spoiled, 64, 64), false);
  });

  it('refuses pixels that do not fit the size', () => {
    assert.throws(
      () => detectObjects(new Uint8Array(64 * 64 * 4), 64, 64),
      (error) => error instanceof InfinityError && error.code === 'INVALID_ARGUMENT',
    );
  });
});

/** One pass of the binomial kernel [1 2 1] / 4 in both directions, edges repeated. */
function blur(pixels: Uint8Array, size: number): Uint8Array {
  const clamp = (v: number) => Math.min(size - 1, Math.max(0, v));
  return pixels.map((_, at) => {
    const [x, y, c] = [Math.floor(at / 3) % size, Math.floor(at / 3 / size), at % 3];
    let sum = 8;
    for (const dy of [-1, 0, 1])
      for (const dx of [-1, 0, 1])
        sum += (2 - Math.abs(dx)) * (2 - Math.abs(dy)) * pixels[(clamp(y + dy) * size + clamp(x + dx)) * 3 + c];
    return sum >> 4;
  });
}
