import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Device } from '../../lib/device.js';
import { openTraining, type StepEvent } from '../../lib/training/index.js';
import { runSome, tokenizerConfig, transformerConfig, using } from '../support/tiny_training.js';

describe('gradient accumulation and checkpointing', () => {
  let root: string;
  let tokenizer: string;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-accumulate-'));
    tokenizer = join(root, 'tokenizer');
    await using(await openTraining('tokenizer', { config: tokenizerConfig }), (t) => t.export(tokenizer));
  });
  after(() => rm(root, { recursive: true, force: true }));

  const base = { ...transformerConfig, batch_size: 6, iterations: 4 };
  let runs = 0;
  const run = async (change: object, directory = join(root, `run-${runs++}`), stop?: number): Promise<StepEvent[]> =>
    using(await openTraining('transformer', { config: { ...base, ...change }, tokenizer }), (t) =>
      runSome(t, directory, stop),
    );
  const numbers = (events: readonly StepEvent[]) =>
    events.map(({ loss, gradNorm, metrics }) => ({ loss, gradNorm, metrics }));

  it('parts of a batch add up to the batch', async () => {
    const whole = await run({});
    for (const accumulate of [2, 6]) {
      const parts = await run({ accumulate });
      for (const [i, { loss, gradNorm, metrics }] of whole.entries()) {
        const got = parts[i]!;
        assert.ok(Math.abs(got.loss - loss) < 1e-5, `loss ${got.loss} and ${loss} of step ${i}`);
        assert.ok(Math.abs(got.gradNorm - gradNorm) < 1e-4 * gradNorm, `norm ${got.gradNorm} and ${gradNorm}`);
        // Before the first update the very same logits are compared with the very same labels.
        if (i === 0) assert.deepEqual(got.metrics, metrics);
      }
    }
  });

  it('a run with parts that was cut off equals an unbroken one, bit for bit', async () => {
    const directory = join(root, 'broken');
    const whole = await run({ accumulate: 3 });
    await run({ accumulate: 3 }, directory, 3);
    assert.deepEqual(numbers(await run({ accumulate: 3 }, directory)), numbers(whole.slice(2)));
  });

  it('checkpointing changes no bit and takes less memory', async () => {
    const measured = async (checkpointing: boolean) => {
      const deep = { ...transformerConfig.transformer, depth: 8 };
      await Device.default().sync();
      const before = Device.default().resetPeak().liveBytes;
      const events = await run({ checkpointing, transformer: deep, iterations: 2 });
      return { numbers: numbers(events), peak: Device.default().stats().peakBytes - before };
    };
    const [kept, again] = [await measured(false), await measured(true)];
    assert.deepEqual(again.numbers, kept.numbers);
    assert.ok(again.peak < kept.peak, `${again.peak} and ${kept.peak} bytes`);
  });

  it('refuses parts that a batch cannot be cut into', async () => {
    await assert.rejects(openTraining('transformer', { config: { ...base, accumulate: 4 }, tokenizer }), {
      code: 'INVALID_ARGUMENT',
      message: /accumulate/,
    });
  });
});
