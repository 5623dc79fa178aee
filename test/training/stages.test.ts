import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { Device } from '../../lib/device.js';
import { Checkpoint } from '../../lib/io/checkpoint.js';
import { InfinityPipeline } from '../../lib/pipeline/pipeline.js';
import { parseGrids, TEMPLATE_RATIOS, templateSchedule } from '../../lib/tokenizer/schedule.js';
import { openTraining, type StepEvent } from '../../lib/training/index.js';
import { planStages, ratesAt, sampleAt, stageAt } from '../../lib/training/stages.js';
import { checkTransformerConfig } from '../../lib/training/transformer_config.js';
import { optimizer, runSome, tokenizerConfig, transformerConfig, using } from '../support/tiny_training.js';

describe('stages and sizes of a transformer training', () => {
  let root: string;
  let tokenizer: string;
  let unbroken: ReturnType<typeof numbers>;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-stages-'));
    tokenizer = join(root, 'tokenizer');
    await using(await openTraining('tokenizer', { config: tokenizerConfig }), (t) => t.export(tokenizer));
  });
  after(() => rm(root, { recursive: true, force: true }));

  const shapes = { kind: 'shapes', seed: 5 };
  const { iterations: _, batch_size: __, dataset: ___, ...rest } = transformerConfig;
  const staged = {
    ...rest,
    dataset: shapes,
    scale_schedules: ['1 2 4', '1 2 4 8'],
    batch_size: 2,
    stages: [
      { name: 'small', dataset: { size: 16 }, iterations: 3 },
      {
        ...{ dataset: { size: 32 }, iterations: 3, batch_size: 4, accumulate: 2, always_training_scales: 3 },
        optimizer: { lr: 0.001, warmup_iterations: 1 },
      },
    ],
  };
  const run = async (config: object, directory: string, stop?: number): Promise<StepEvent[]> =>
    using(await openTraining('transformer', { config, tokenizer }), (t) => runSome(t, join(root, directory), stop));
  const numbers = (events: readonly StepEvent[]) =>
    events.map(({ step, loss, gradNorm, lr, metrics, phase }) => ({ step, loss, gradNorm, lr, metrics, phase }));

  it('one command runs through the stages, each with its size, batch and rate; the log names them', async () => {
    const live = Device.default().stats().liveTensors;
    const events = await run(staged, 'whole');
    unbroken = numbers(events);
    assert.equal(Device.default().stats().liveTensors, live);
    assert.deepEqual(
      events.map(({ phase }) => phase),
      ['small', 'small', 'small', '32x32', '32x32', '32x32'],
    );
    assert.ok(events.every(({ iterations }) => iterations === 6));
    // Each stage warms up and falls by itself: 2 steps of 3, then 1 of 3.
    const lr = events.map((e) => e.lr);
    const [peak, start] = [optimizer.lr, optimizer.lr * optimizer.start_factor];
    for (const [i, want] of [start, (start + peak) / 2, peak, 0.0001, 0.001, 0.0001].entries())
      assert.ok(Math.abs(lr[i]! - want) < 1e-9, `${lr[i]} and ${want} at step ${i}`);
    assert.ok('scale2' in events[0]!.metrics && 'scale2' in events[3]!.metrics && !('scale3' in events[3]!.metrics));
  });

  for (const stop of [2, 3, 5])
    it(`a run cut off after step ${stop} goes on with the same bits`, async () => {
      const directory = `cut-${stop}`;
      // A state after every step: the border itself is one of them.
      const config = { ...staged, save_every: 1 };
      await run(config, directory, stop);
      assert.deepEqual(numbers(await run(config, directory)), unbroken.slice(stop));
    });

  it('a changed stage is another run, a moved save is not', async () => {
    await run(staged, 'changed', 2);
    const [first, second] = staged.stages;
    const changed = { ...staged, stages: [first, { ...second, batch_size: 2 }] };
    await assert.rejects(run(changed, 'changed'), { code: 'CHECKPOINT_CONFIG_MISMATCH', message: /stages/ });
    assert.equal((await run({ ...staged, save_every: 5 }, 'changed', 3))[0]!.step, 3);
  });

  it('the checkpoint draws at the sizes of all stages', async () => {
    const exported = join(root, 'exported');
    await using(await openTraining('transformer', { config: staged, tokenizer }), (t) => t.export(exported));
    const { config } = await (await Checkpoint.open(exported)).component('transformer');
    assert.deepEqual(config.scale_schedules, ['1 2 4 8', '1 2 4'].map(parseGrids));
    const pipe = await InfinityPipeline.fromPretrained(exported);
    try {
      for (const side of [32, 16]) {
        const { images } = await pipe.generate('a red circle', { seed: 1, size: [side, side] });
        assert.deepEqual([images[0]!.height, images[0]!.width], [side, side]);
      }
    } finally {
      await pipe.dispose();
    }
  });

  it('pictures of mixed shapes train and resume batch by batch, each size on its own grids', async () => {
    const path = join(root, 'pictures');
    await mkdir(path);
    const sizes = [
      [40, 40],
      [36, 36],
      [64, 30],
      [70, 34],
      [30, 60],
      [28, 60],
    ] as const;
    for (const [i, [width, height]] of sizes.entries()) {
      const data = Uint8Array.from({ length: width * height * 3 }, (_, j) => (j * (i + 3)) % 256);
      await sharp(data, { raw: { width, height, channels: 3 } }).toFile(join(path, `${i}.png`));
      await writeFile(join(path, `${i}.txt`), `picture ${i}`);
    }
    const config = {
      ...transformerConfig,
      dataset: {
        kind: 'folder',
        path,
        seed: 1,
        sizes: [
          [16, 16],
          [16, 32],
          [32, 16],
        ],
      },
      scale_schedules: ['1 2 4', '1 1x2 2x4 4x8', '1 2x1 8x4'],
    };
    const whole = await run(config, 'mixed');
    assert.deepEqual(new Set(whole.map(({ metrics }) => 'scale3' in metrics)), new Set([true, false]));
    await run(config, 'mixed-cut', 3);
    assert.deepEqual(numbers(await run(config, 'mixed-cut')), numbers(whole.slice(2)));
    const without = { ...config, scale_schedules: ['1 2 4', '1 2x1 8x4'] };
    await assert.rejects(run(without, 'none'), {
      code: 'INVALID_ARGUMENT',
      message: /16 x 16, 32 x 16.*dataset\.sizes.*\[16, 32\]/,
    });
  });

  it('tokens of 2 x 2 latent positions: trained, resumed, exported and drawn', async () => {
    const even = join(root, 'even-tokenizer');
    const latents = { ...tokenizerConfig, schedule: '2 4' };
    await using(await openTraining('tokenizer', { config: latents }), (t) => t.export(even));
    const config = {
      ...transformerConfig,
      transformer: { ...transformerConfig.transformer, apply_spatial_patchify: true },
    };
    const start = async () => openTraining('transformer', { config, tokenizer: even });
    const whole = await using(await start(), (t) => runSome(t, join(root, 'blocks')));
    await using(await start(), (t) => runSome(t, join(root, 'blocks-cut'), 3));
    const exported = join(root, 'blocks-checkpoint');
    const again = await using(await start(), async (t) => {
      const events = await runSome(t, join(root, 'blocks-cut'));
      await t.export(exported);
      return events;
    });
    assert.deepEqual(numbers(again), numbers(whole.slice(2)));
    const { config: saved } = await (await Checkpoint.open(exported)).component('transformer');
    assert.deepEqual([saved.apply_spatial_patchify, saved.scale_schedules], [true, [parseGrids('1 2')]]);
    const pipe = await InfinityPipeline.fromPretrained(exported);
    try {
      const { images } = await pipe.generate('a red circle', { seed: 1 });
      assert.deepEqual([images[0]!.height, images[0]!.width], [16, 16]);
    } finally {
      await pipe.dispose();
    }
    await assert.rejects(openTraining('transformer', { config, tokenizer }), /apply_spatial_patchify/);
  });

  it('an official budget stands for the sizes and grids of all templates', () => {
    const dataset = { kind: 'folder', path: 'pictures', seed: 1, pn: '0.06M' };
    const { config, official, stages } = checkTransformerConfig({ ...transformerConfig, dataset });
    assert.ok(official && stages.length === 1);
    assert.equal(config.scale_schedules!.length, TEMPLATE_RATIOS.length);
    assert.deepEqual(parseGrids(config.scale_schedules![6]!), templateSchedule(TEMPLATE_RATIOS[6]!, '0.06M'));
    assert.deepEqual((config.dataset as { sizes?: unknown[] }).sizes!.slice(0, 3), [
      [256, 256],
      [320, 256],
      [256, 320],
    ]);
    const larger = {
      ...transformerConfig,
      dataset,
      stages: [{}, { dataset: { pn: '0.25M' } }, { dataset: { size: 64 }, scale_schedules: ['1 2 4'] }],
    };
    const progressive = checkTransformerConfig(larger);
    assert.equal(progressive.official, false);
    assert.equal(checkTransformerConfig({ ...larger, stages: larger.stages.slice(0, 2) }).official, true);
    assert.deepEqual(progressive.stages[2]!.dataset, { kind: 'folder', path: 'pictures', seed: 1, size: 64 });
  });

  it('refuses stages that mean nothing, naming the field', () => {
    const wrong: readonly (readonly [stages: unknown, field: RegExp])[] = [
      [[], /'stages'/],
      [[3], /stages\[0\]/],
      [[{}, { seed: 3 }], /stages\[1\]\.seed/],
      [[{ optimizer: { betas: [0.9, 0.9] } }], /stages\[0\]\.optimizer\.betas/],
      [[{}, { iterations: 0 }], /stages\[1\].*iterations/],
      [[{ batch_size: 3, accumulate: 2 }], /stages\[0\].*accumulate/],
      [[{ dataset: { pn: '2M' } }], /stages\[0\].*dataset\.pn/],
      [[{ name: '' }], /stages\[0\]\.name/],
    ];
    for (const [stages, field] of wrong)
      assert.throws(() => checkTransformerConfig({ ...transformerConfig, stages }), {
        code: 'INVALID_ARGUMENT',
        message: field,
      });
  });

  it('samples of a stage start at a multiple of its batch', () => {
    const config = (iterations: number, batch_size: number) => ({
      iterations,
      batch_size,
      optimizer: optimizer as never,
    });
    const source = { spec: { kind: 'shapes', seed: 1, size: 16 }, purpose: 'transformer' } as const;
    const stages = planStages([config(3, 2), config(2, 4), config(5, 3)].map((c) => ({ config: c, source })));
    assert.deepEqual(
      stages.map(({ firstStep, firstSample }) => [firstStep, firstSample]),
      [
        [0, 0],
        [3, 8],
        [5, 18],
      ],
    );
    assert.equal(stageAt(stages, 4), stages[1]);
    assert.equal(stageAt(stages, 10), stages[2]);
    assert.equal(sampleAt(stages[2]!, 7), 24);
    assert.equal(ratesAt(stages[1]!, 3).lr, optimizer.lr * optimizer.start_factor);
  });
});
