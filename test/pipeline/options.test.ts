import assert from 'node:assert/strict';
import fc from 'fast-check';
import { InfinityError } from '../../lib/errors.js';
import { type GenerateOptions, planOf, previewScales, samplingDefaults } from '../../lib/pipeline/options.js';
import { checkpointSizes, nearestSize, tokenizerSizes } from '../../lib/pipeline/sizes.js';
import {
  nearestTemplate,
  PIXEL_BUDGETS,
  parseGrids,
  pixelSize,
  templateSchedule,
} from '../../lib/tokenizer/schedule.js';

const sizes = checkpointSizes(['1 2 4', '1 2x3 4x6'].map(parseGrids), 16);
const defaults = samplingDefaults({ guidance: 4, tau: 0.5, top_k: 2, top_p: 0.9 }, sizes);
const plan = (options: GenerateOptions, prompt: string | string[] = 'a star') =>
  planOf(prompt, options, sizes, defaults);
const refused = (code: string, value: unknown, options: object, prompt?: unknown) =>
  assert.throws(
    () => plan(options as GenerateOptions, prompt as string),
    (error: unknown) => {
      assert.ok(error instanceof InfinityError);
      assert.equal(error.code, code);
      assert.deepEqual(error.value, value);
      return true;
    },
  );

describe('request options', () => {
  it('take the defaults of the checkpoint', () => {
    const { choice, guidance, tau, topK, topP, pictures } = plan({ seed: 7 });
    assert.deepEqual(choice.size, [64, 64]);
    assert.deepEqual([guidance, tau, topK, topP], [[4, 4, 4], [0.5, 0.5, 0.5], 2, 0.9]);
    assert.deepEqual(pictures, [{ prompt: 'a star', seed: 7, image: 0 }]);
  });

  it('list pictures prompt by prompt, then count, with one seed a prompt', () => {
    const { pictures } = plan({ seed: [3, 4], count: 2, firstImage: 5 }, ['a', 'b']);
    assert.deepEqual(
      pictures.map(({ prompt, seed, image }) => [prompt, seed, image]),
      [
        ['a', 3, 5],
        ['a', 3, 6],
        ['b', 4, 5],
        ['b', 4, 6],
      ],
    );
    assert.deepEqual(
      plan({ seed: 9 }, ['a', 'b']).pictures.map(({ seed }) => seed),
      [9, 9],
    );
  });

  it('draw a seed for each prompt where none is given', () => {
    const drawn = Array.from({ length: 20 }, () => plan({}, ['a', 'b']).pictures.map(({ seed }) => seed)).flat();
    assert.ok(new Set(drawn).size > 30);
    assert.ok(drawn.every((seed) => Number.isSafeInteger(seed) && seed >= 0));
  });

  it('take one number for each scale', () => {
    assert.deepEqual(plan({ guidance: [1, 2, 3] }).guidance, [1, 2, 3]);
    refused('INVALID_ARGUMENT', [1, 2], { guidance: [1, 2] });
    refused('INVALID_ARGUMENT', Number.NaN, { guidance: [1, Number.NaN, 1] });
  });

  it('refuse numbers that cannot be meant', () => {
    refused('INVALID_ARGUMENT', Number.NaN, { guidance: Number.NaN });
    refused('INVALID_ARGUMENT', Number.POSITIVE_INFINITY, { guidance: Number.POSITIVE_INFINITY });
    refused('INVALID_ARGUMENT', '3', { guidance: '3' });
    refused('INVALID_ARGUMENT', 0, { tau: 0 });
    refused('INVALID_ARGUMENT', 1.5, { topP: 1.5 });
    refused('INVALID_ARGUMENT', -1, { topK: -1 });
    refused('INVALID_ARGUMENT', 0, { count: 0 });
    refused('INVALID_ARGUMENT', 2.5, { seed: 2.5 });
    refused('INVALID_ARGUMENT', 2 ** 53, { seed: 2 ** 53 });
    refused('INVALID_ARGUMENT', [1, 2], { seed: [1, 2] });
    refused('INVALID_ARGUMENT', 'now', { signal: 'now' });
    refused('INVALID_ARGUMENT', 3, { onScale: 3 });
  });

  it('refuse prompts without text', () => {
    refused('PROMPT_EMPTY', '', {}, '');
    refused('PROMPT_EMPTY', ' \n', {}, ['a star', ' \n']);
    refused('PROMPT_EMPTY', '', { negativePrompt: '' });
    refused('INVALID_ARGUMENT', 7, {}, 7);
    refused('INVALID_ARGUMENT', 0, {}, []);
  });

  it('choose a size by size, aspect and pixels', () => {
    assert.deepEqual(plan({ size: [64, 96] }).choice.size, [64, 96]);
    assert.deepEqual(plan({ aspect: 16 / 9 }).choice.size, [64, 96]);
    assert.deepEqual(plan({ size: [500, 700], nearest: true }).choice.size, [64, 96]);
    refused('INVALID_ARGUMENT', [64], { size: [64] });
    refused('INVALID_ARGUMENT', [64, 64], { size: [64, 64], aspect: 1 });
    refused('INVALID_ARGUMENT', -1, { aspect: -1 });
  });

  it('list the sizes when another is asked for', () => {
    assert.throws(
      () => plan({ size: [64, 65] }),
      (error: unknown) => {
        assert.ok(error instanceof InfinityError);
        assert.equal(error.code, 'UNSUPPORTED_SIZE');
        assert.match(error.message, /64x64, 64x96/);
        assert.deepEqual(error.fields.sizes, [
          [64, 64],
          [64, 96],
        ]);
        return true;
      },
    );
  });

  it('spread previews over the scales before the last', () => {
    assert.deepEqual([...previewScales(3, 6)], [1, 2, 4]);
    assert.deepEqual([...previewScales(1, 6)], [2]);
    assert.deepEqual([...previewScales(0, 6)], []);
    for (let scales = 1; scales <= 13; scales++)
      for (let previews = 0; previews < scales; previews++) {
        const chosen = [...previewScales(previews, scales)];
        assert.equal(chosen.length, previews);
        assert.ok(
          chosen.every((k) => k >= 0 && k < scales - 1),
          `${previews} of ${scales}: ${chosen}`,
        );
      }
    assert.throws(() => previewScales(6, 6), { code: 'INVALID_ARGUMENT' });
  });
});

describe('sizes of a checkpoint', () => {
  it('are the official buckets where it declares none, the largest square first', () => {
    const official = checkpointSizes(undefined, 16);
    assert.equal(official.length, 60);
    assert.deepEqual(official[0]!.size, [1024, 1024]);
    const nearest = planOf('a', { aspect: 3 / 4, pixels: 512 * 512 }, official, samplingDefaults({}, official));
    assert.deepEqual(nearest.choice.size, [576, 432]);
  });

  it('are chosen by the official rule: the nearest template, the first of equals, then the number of pixels', () => {
    const official = checkpointSizes(undefined, 16);
    fc.assert(
      fc.property(fc.integer({ min: 16, max: 4096 }), fc.integer({ min: 16, max: 4096 }), (height, width) => {
        const { template, size } = nearestSize(official, [height, width]);
        assert.equal(template, nearestTemplate(height, width));
        const distance = ([h, w]: readonly [number, number]) => Math.abs(Math.log((h * w) / (height * width)));
        for (const budget of PIXEL_BUDGETS)
          assert.ok(distance(size) <= distance(pixelSize(templateSchedule(template!, budget))) + 1e-12);
      }),
      { seed: 1, numRuns: 300 },
    );
    // Halfway between 1.25 and 1 by difference; by ratio it would be nearer to 1.25.
    assert.equal(nearestSize(official, [1120, 1000]).template, 1);
    assert.equal(nearestSize(official, [1125, 1000]).template, 1);
  });

  it('are refused when grids make no schedule, or settings cannot be used', () => {
    assert.throws(() => tokenizerSizes('1 x', 16), { code: 'CHECKPOINT_INVALID' });
    assert.throws(() => tokenizerSizes('4 2', 16), { code: 'CHECKPOINT_INVALID' });
    assert.throws(() => tokenizerSizes(undefined, 4), { code: 'CHECKPOINT_INVALID' });
    assert.deepEqual(
      tokenizerSizes('1 2 4x6', 16).map(({ size }) => size),
      [[64, 96]],
    );
    assert.throws(() => samplingDefaults({ tau: 'hot' }, sizes), { code: 'CHECKPOINT_INVALID', message: /tau/ });
    assert.throws(() => samplingDefaults({ size: [1, 1] }, sizes), { code: 'CHECKPOINT_INVALID' });
  });
});
