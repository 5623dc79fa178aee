import assert from 'node:assert/strict';
import { appendFile, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findDataset } from '../../lib/data/dataset.js';
import { Device } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import { mul } from '../../lib/ops/elementwise.js';
import { mean } from '../../lib/ops/reduce.js';
import { Tape } from '../../lib/tape.js';
import { Tensor } from '../../lib/tensor.js';
import type { RunConfig } from '../../lib/training/config.js';
import { AdamW } from '../../lib/training/optimizer.js';
import { runTraining, type StepEvent, type StepNumbers, type Trainee } from '../../lib/training/run.js';
import { type LogLine, readRunLog } from '../../lib/training/run_log.js';
import { optimizer as optimizerConfig } from '../support/tiny_training.js';

const config: RunConfig = {
  seed: 1,
  dataset: { kind: 'shapes', seed: 1, size: 16 },
  batch_size: 1,
  iterations: 60,
  optimizer: { ...optimizerConfig, betas: [0.9, 0.95] },
  save_every: 10,
};

/** Two weights whose gradients are what `script` says; losses and metrics as well. */
async function scripted(script: (step: number) => Partial<StepNumbers> & { readonly gradients?: readonly number[] }) {
  const device = Device.default();
  const weights = ['early', 'late'].map((name): [string, Tensor] => [name, Tensor.from([1], [1], 'f32', device)]);
  const optimizer = await AdamW.create(weights, { betas: [0.9, 0.95], clip: 1, emaDecay: 0.9 });
  const step: Trainee['step'] = async (_, n, rates) => {
    const { gradients = [1, 1], ...numbers } = script(n + 1);
    const factors = gradients.map((g) => Tensor.from([g], [1], 'f32', device));
    const one = Tensor.from([1], [], 'f32', device);
    const tape = new Tape().watch(...optimizer.parameters);
    const losses = tape.run(() => weights.map(([, weight], i) => mean(mul(weight, factors[i]!))));
    const grads = tape.backward(losses.map((of) => ({ of, cotangent: one })));
    const norm = optimizer.update(grads, rates);
    const [gradNorm] = await norm.readFloats();
    grads.dispose();
    for (const t of [...factors, one, ...losses, norm]) t.dispose();
    return { loss: 1, gradNorm: gradNorm!, metrics: {}, ...numbers };
  };
  const trainee: Trainee = {
    device,
    source: await findDataset(config.dataset, 'tokenizer'),
    optimizer,
    weights: () => weights,
    step,
  };
  const dispose = (): void => {
    optimizer.dispose();
    for (const [, weight] of weights) weight.dispose();
  };
  return { trainee, dispose };
}

describe('what looks over a run', function () {
  this.timeout(60_000);
  let root: string;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-watch-'));
  });
  after(() => rm(root, { recursive: true, force: true }));

  const linesOf = async (directory: string): Promise<LogLine[]> => {
    const lines: LogLine[] = [];
    for await (const line of readRunLog(directory)) lines.push(line);
    return lines;
  };

  async function run(
    directory: string,
    script: Parameters<typeof scripted>[0],
    { stop = Infinity, change = {} }: { stop?: number; change?: Partial<RunConfig> } = {},
  ): Promise<StepEvent[]> {
    const { trainee, dispose } = await scripted(script);
    const events: StepEvent[] = [];
    try {
      for await (const event of runTraining(trainee, { ...config, ...change }, { directory })) {
        events.push(event);
        if (event.step >= stop) break;
      }
      return events;
    } finally {
      dispose();
    }
  }

  async function failure(...[directory, script, options]: Parameters<typeof run>): Promise<InfinityError> {
    const error = await run(directory, script, options).then(
      () => assert.fail('the run did not stop'),
      (e: unknown) => e,
    );
    assert.ok(error instanceof InfinityError && error.code === 'NUMERICAL' && error.cure, String(error));
    return error;
  }

  it('keeps a log that has each step once, whatever ended the parts of the run', async () => {
    const directory = join(root, 'log');
    const script = (step: number) => ({ loss: 1 / step, metrics: { accuracy: step / 100, scale0: 0.5 } });
    const first = await run(directory, script, { stop: 27 });
    assert.deepEqual(
      (await linesOf(directory)).map(({ step }) => step),
      first.map(({ step }) => step),
    );
    // Killed while it wrote a line.
    await appendFile(join(directory, 'log.jsonl'), '{"step":28,"time":"2026-01-01T00:0');
    const rest = await run(directory, script);
    assert.equal(rest[0]!.step, 21);
    const lines = await linesOf(directory);
    assert.deepEqual(
      lines.map(({ step }) => step),
      Array.from({ length: 60 }, (_, i) => i + 1),
    );
    assert.equal((await readFile(join(directory, 'log.jsonl'), 'utf8')).split('\n').length, 61);
    for (const line of lines) {
      const { step, time, loss, metrics, gradNorm, lr, samplesPerSecond, memory, ...others } = line;
      assert.deepEqual(others, {});
      assert.deepEqual([loss, metrics], [1 / step, { accuracy: step / 100, scale0: 0.5 }]);
      assert.ok(Math.abs(Date.parse(time) - Date.now()) < 60_000);
      assert.ok(Math.abs(gradNorm - Math.SQRT2) < 1e-6 && lr > 0 && samplesPerSecond > 0);
      const { liveBytes, peakBytes, rssBytes } = memory;
      assert.ok(0 < liveBytes && liveBytes <= peakBytes && peakBytes < rssBytes);
    }
    assert.deepEqual(rest.at(-1)!.memory, lines.at(-1)!.memory);
  });

  it('a step that is not finite ends the run: step, tensor and last good state are named, the log ends before it', async () => {
    const cases = [
      [{ gradients: [Number.NaN, Number.NaN] }, 'late', /gradient of 'late' and 1 more are not finite/],
      [{ gradients: [Number.POSITIVE_INFINITY, 1] }, 'early', /gradient of 'early' is not finite/],
      [{ loss: Number.NaN }, 'loss', /loss of step 17 is NaN/],
      [{ metrics: { good: 1, bad: Number.NaN } }, 'bad', /metric 'bad' is NaN/],
    ] as const;
    for (const [i, [numbers, tensor, told]] of cases.entries()) {
      const directory = join(root, `not-finite-${i}`);
      const error = await failure(directory, (step) => (step === 17 ? numbers : {}));
      assert.match(error.message, told);
      assert.match(error.message, /step 17/);
      const state = join(directory, 'state-00000010.safetensors');
      assert.deepEqual([error.fields.step, error.fields.tensor, error.fields.lastGood], [17, tensor, state]);
      assert.ok(error.message.includes(state));
      assert.equal((await linesOf(directory)).length, 16);
    }
  });

  it('weights that are not finite are refused before the first step', async () => {
    const { trainee, dispose } = await scripted(() => ({}));
    for (const [name, weight] of trainee.weights()) if (name === 'late') weight.write([Number.NaN]);
    await assert.rejects(runTraining(trainee, config, { directory: join(root, 'spoilt') }).next(), (e: unknown) => {
      assert.ok(e instanceof InfinityError && e.code === 'NUMERICAL' && e.fields.tensor === 'late', String(e));
      return true;
    });
    dispose();
  });

  it('a diverging run ends with the state from before, which stays on disk; a resumed one knows the steps before', async () => {
    const divergence = { factor: 1.5, steps: 25 };
    const loss = (step: number) => ({ loss: step < 33 ? 1 : 2 });
    const expected = (error: InfinityError, directory: string): void => {
      const { step, tensor, since, lastGood } = error.fields;
      assert.deepEqual([step, tensor, since], [57, 'loss', 33]);
      assert.equal(lastGood, join(directory, 'state-00000030.safetensors'));
      assert.match(error.message, /diverged: at step 57 .* since step 33/);
    };
    const [whole, parts] = [join(root, 'diverged'), join(root, 'diverged-in-parts')];
    expected(await failure(whole, loss, { change: { divergence } }), whole);
    const states = (await readdir(whole)).filter((name) => name.startsWith('state')).sort();
    assert.deepEqual(
      states,
      [30, 40, 50].map((step) => `state-000000${step}.safetensors`),
    );
    await run(parts, loss, { stop: 44, change: { divergence } });
    expected(await failure(parts, loss, { change: { divergence } }), parts);
    // A change of its limits needs no new run.
    assert.equal((await run(parts, loss, { change: { divergence: { factor: 3, steps: 25 } } })).at(-1)!.step, 60);
  });

  it('the configuration of both is checked', async () => {
    const { checkRunConfig, samplesRule } = await import('../../lib/training/config.js');
    const rules = [samplesRule({ prompts: true })];
    for (const good of [{ count: 0 }, { prompts: ['a', 'b'] }, undefined])
      checkRunConfig({ ...config, ...(good && { samples: good }) }, rules);
    const wrong = [
      ...[{}, 8, { count: -1 }, { count: 65 }, { prompts: [] }, { prompts: [' '] }, { count: 1, prompts: ['a'] }].map(
        (samples) => ({ samples }),
      ),
      ...[{}, { factor: 1, steps: 10 }, { factor: 2 }, { factor: 2, steps: 1.5 }, { factor: 2, steps: 1, more: 1 }].map(
        (divergence) => ({ divergence }),
      ),
    ];
    for (const change of wrong)
      assert.throws(() => checkRunConfig({ ...config, ...change }, rules), {
        code: 'INVALID_ARGUMENT',
        message: new RegExp(Object.keys(change)[0]!),
      });
    assert.throws(() => checkRunConfig({ ...config, samples: { prompts: ['a'] } }, [samplesRule({ prompts: false })]), {
      code: 'INVALID_ARGUMENT',
    });
  });
});
