import assert from 'node:assert/strict';
import fc from 'fast-check';
import { InfinityError } from '../../lib/errors.js';
import {
  finestGrid,
  nearestTemplate,
  PIXEL_BUDGETS,
  type PixelBudget,
  paddedLength,
  patchifySchedule,
  pixelSize,
  type Scale,
  type ScaleSchedule,
  sameSchedule,
  scaleOffsets,
  TEMPLATE_RATIOS,
  templateSchedule,
  tokenCount,
  validateSchedule,
  withVideoTime,
} from '../../lib/tokenizer/schedule.js';
import { readGoldenJson } from '../support/goldens.js';

interface TransformerSchedules {
  template_order: number[];
  nearest_template: { height: number; width: number; h_div_w_template: number }[];
  schedules: { h_div_w: number; pn: PixelBudget; pixel: number[]; tokens: number; scales: number[][] }[];
}

interface TokenizerSchedules {
  templates_in_order: number[];
  dynamic_resolution_h_w: Record<string, Record<PixelBudget, { pixel: number[]; scales: number[][] }>>;
  nearest_template: { height: number; width: number; template: number }[];
}

describe('scale schedules', () => {
  it('agree with the transformer table', function () {
    const golden = readGoldenJson<TransformerSchedules>(this, 'transformer/a0_schedules.json');
    assert.deepEqual(TEMPLATE_RATIOS, golden.template_order);
    assert.equal(golden.schedules.length, 60);
    for (const { h_div_w, pn, pixel, tokens, scales } of golden.schedules) {
      const schedule = templateSchedule(h_div_w, pn);
      assert.deepEqual(schedule, scales);
      assert.deepEqual(pixelSize(schedule), pixel);
      assert.equal(tokenCount(schedule), tokens);
    }
    for (const { height, width, h_div_w_template } of golden.nearest_template) {
      assert.equal(nearestTemplate(height, width), h_div_w_template, `${height} x ${width}`);
    }
  });

  it('agree with the tokenizer table, video time included', function () {
    const golden = readGoldenJson<TokenizerSchedules>(this, 'tokenizer/schedules.json');
    assert.deepEqual(TEMPLATE_RATIOS, golden.templates_in_order);
    assert.deepEqual(Object.keys(golden.dynamic_resolution_h_w).map(Number), TEMPLATE_RATIOS);
    for (const [template, budgets] of Object.entries(golden.dynamic_resolution_h_w)) {
      assert.deepEqual(Object.keys(budgets), [...PIXEL_BUDGETS]);
      for (const budget of PIXEL_BUDGETS) {
        const schedule = templateSchedule(Number(template), budget);
        assert.deepEqual(withVideoTime(schedule), budgets[budget].scales);
        assert.deepEqual(pixelSize(schedule), budgets[budget].pixel);
      }
    }
    for (const { height, width, template } of golden.nearest_template) {
      assert.equal(nearestTemplate(height, width), template, `${height} x ${width}`);
    }
  });

  it('pads to multiples as published', () => {
    assert.deepEqual(
      [521, 2521, 10521].map((n) => paddedLength(n, 128)),
      [640, 2560, 10624],
    );
    assert.equal(paddedLength(521, 0), 521);
    assert.equal(paddedLength(640, 128), 640);
  });

  it('nearest template is a template and never beaten by another', () => {
    const side = fc.integer({ min: 1, max: 4096 });
    fc.assert(
      fc.property(side, side, (height, width) => {
        const nearest = nearestTemplate(height, width);
        const distance = (template: number) => Math.abs(height / width - template);
        assert.ok(TEMPLATE_RATIOS.every((template) => distance(template) >= distance(nearest)));
      }),
    );
  });

  const grid = fc.tuple(fc.integer({ min: 1, max: 64 }), fc.integer({ min: 1, max: 64 }));
  const anySchedule = fc.array(grid, { minLength: 1, maxLength: 12 }).map((grids): ScaleSchedule => {
    const h = Math.max(...grids.map(([rows]) => rows));
    const w = Math.max(...grids.map(([, columns]) => columns));
    return [...grids.map(([rows, columns]): Scale => [1, rows, columns]), [1, h, w]];
  });

  it('offsets, counts and patchified grids are consistent for any schedule', () => {
    fc.assert(
      fc.property(anySchedule, (schedule) => {
        const offsets = scaleOffsets(schedule);
        assert.equal(offsets.length, schedule.length + 1);
        assert.equal(offsets.at(-1), tokenCount(schedule));
        schedule.forEach(([, h, w], k) => void assert.equal(offsets[k + 1] - offsets[k], h * w));
        const doubled = patchifySchedule(schedule);
        assert.equal(tokenCount(doubled), 4 * tokenCount(schedule));
        assert.deepEqual(pixelSize(doubled, 8), pixelSize(schedule, 16));
      }),
    );
  });

  it('a schedule survives JSON and validation', () => {
    fc.assert(
      fc.property(anySchedule, (schedule) => {
        const read = validateSchedule(JSON.parse(JSON.stringify(schedule)));
        assert.ok(sameSchedule(read, schedule));
        assert.deepEqual(finestGrid(read), finestGrid(schedule));
      }),
    );
    assert.equal(sameSchedule([[1, 1, 1]], [[1, 1, 2]]), false);
  });

  it('refuses malformed schedules by naming what is wrong', () => {
    const bad: unknown[] = [
      undefined,
      [],
      'x',
      [[1, 1]],
      [[2, 1, 1]],
      [[1, 0, 1]],
      [[1, 1.5, 1]],
      [[1, 1, 2000]],
      [
        [1, 4, 4],
        [1, 2, 2],
      ],
      [[1, Number.NaN, 1]],
      Array(65).fill([1, 1, 1]),
    ];
    for (const value of bad) {
      assert.throws(
        () => validateSchedule(value, 'vae/config.json'),
        (e: unknown) =>
          e instanceof InfinityError && e.code === 'CHECKPOINT_INVALID' && e.message.includes('vae/config.json'),
        JSON.stringify(value),
      );
    }
    assert.throws(() => templateSchedule(1.1, '1M'), { code: 'INVALID_ARGUMENT' });
    assert.throws(() => templateSchedule(1, '2M' as PixelBudget), { code: 'INVALID_ARGUMENT' });
    assert.throws(() => nearestTemplate(0, 10), { code: 'INVALID_ARGUMENT' });
    assert.throws(() => nearestTemplate(Number.NaN, 10), { code: 'INVALID_ARGUMENT' });
  });
});
