import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Device } from '../../lib/device.js';
import { estimateMemory, measureTime, type TrainingMemory } from '../../lib/training/estimate.js';
import { openTraining, type TrainingKind } from '../../lib/training/index.js';
import { runSome, tokenizerConfig, transformerConfig, using } from '../support/tiny_training.js';

describe('estimate of a training', function () {
  this.timeout(60_000);
  let root: string;
  let tokenizer: string;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-estimate-'));
    tokenizer = join(root, 'tokenizer');
    await using(await openTraining('tokenizer', { config: tokenizerConfig }), (t) => t.export(tokenizer));
  });
  after(() => rm(root, { recursive: true, force: true }));

  const optionsOf = (kind: TrainingKind, change: object) => ({
    config: { ...(kind === 'tokenizer' ? tokenizerConfig : transformerConfig), ...change },
    ...(kind === 'transformer' ? { tokenizer } : {}),
    // Scratch grows with the threads; and a device of its own has the peak of one run alone.
    threads: 1,
  });

  const cases: [TrainingKind, object][] = [
    ['tokenizer', { batch_size: 8 }],
    ['tokenizer', { discriminator: { base_ch: 4, layers: 2, weight: 0.3, start: 4, lr_multiplier: 2, lecam: 0.05 } }],
    ['transformer', { batch_size: 16 }],
    ['transformer', { batch_size: 16, accumulate: 4 }],
    ['transformer', { batch_size: 16, checkpointing: true }],
  ];
  for (const [kind, change] of cases)
    it(`of a ${kind} with ${JSON.stringify(change)}: its peak is that of a run, within a tenth`, async () => {
      const told = await estimateMemory(kind, optionsOf(kind, change));
      const training = await openTraining(kind, optionsOf(kind, change));
      const events = await using(training, (t) => runSome(t, join(root, `${kind}-${Object.values(change).join('-')}`)));
      training.device.close();
      const { peakBytes, liveBytes } = events.at(-1)!.memory;
      assert.ok(Math.abs(told.peakBytes / peakBytes - 1) < 0.1, `${told.peakBytes} of ${peakBytes}`);
      const between = told.weightBytes + told.momentBytes + told.averageBytes + told.otherBytes;
      assert.ok(Math.abs(between / liveBytes - 1) < 0.1, `${between} of ${liveBytes}`);
    });

  it('of stages is that of the largest, whose time is told for its steps alone', async () => {
    const { iterations: _, ...rest } = transformerConfig;
    const stages = [
      { name: 'small', dataset: { size: 16 }, iterations: 3 },
      { name: 'large', dataset: { size: 32 }, iterations: 30, batch_size: 8 },
    ];
    const config = { ...rest, dataset: { kind: 'shapes', seed: 5 }, scale_schedules: ['1 2 4', '1 2 4 8'], stages };
    const options = { config, tokenizer, threads: 1 };
    const told = await estimateMemory('transformer', options);
    const training = await openTraining('transformer', options);
    const { measuredSteps, totalSeconds, secondsPerStep } = await measureTime(training);
    const { peakBytes } = training.device.stats();
    training.dispose();
    training.device.close();
    assert.ok(Math.abs(told.peakBytes / peakBytes - 1) < 0.1, `${told.peakBytes} of ${peakBytes}`);
    assert.equal(told.iterations, 33);
    assert.ok(measuredSteps >= 6 && totalSeconds >= 33 * secondsPerStep * 0.999);
  });

  it('takes no memory, tells what accumulation and checkpointing save, and the sizes that follow from the weights', async () => {
    const live = Device.default().stats().liveBytes;
    const of = (change: object): Promise<TrainingMemory> =>
      estimateMemory('transformer', optionsOf('transformer', change));
    const [whole, parts, again] = [
      await of({ batch_size: 32 }),
      await of({ batch_size: 32, accumulate: 8 }),
      await of({ batch_size: 32, checkpointing: true }),
    ];
    assert.equal(Device.default().stats().liveBytes, live);
    assert.ok(parts.stepBytes < 0.5 * whole.stepBytes, `${parts.stepBytes} of ${whole.stepBytes}`);
    assert.ok(again.stepBytes < whole.stepBytes && again.flops > 1.05 * whole.flops);
    // Prompts are filled up to the longest of their part.
    assert.ok(parts.flops < whole.flops && parts.flops > 0.8 * whole.flops);
    const { weightBytes, momentBytes, averageBytes, stateBytes } = whole;
    assert.deepEqual([momentBytes, averageBytes, stateBytes], [2 * weightBytes, weightBytes, 4 * weightBytes]);
  });

  it('measures time on real steps', async () => {
    const options = optionsOf('tokenizer', {});
    const { secondsPerStep, secondsPerBatch, measuredSteps } = await using(
      await openTraining('tokenizer', options),
      (t) => measureTime(t),
    );
    assert.ok(secondsPerStep > 0 && secondsPerBatch > 0 && measuredSteps >= 3);
    const reason = new Error('enough');
    await using(await openTraining('tokenizer', options), (t) =>
      assert.rejects(measureTime(t, AbortSignal.abort(reason)), reason),
    );
  });
});
