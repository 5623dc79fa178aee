/** The experiments of `npm run claims`: that they can be read at any moment, and that what they measure is what they say. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Context, Experiment, Result, Values } from '../../benchmarks/claims/experiment.js';
import { classifierMemory } from '../../benchmarks/claims/experiments/classifier_memory.js';
import { EXPERIMENTS } from '../../benchmarks/claims/experiments/index.js';
import { withTrained } from '../../benchmarks/claims/experiments/shared.js';
import { completed, distances, teacherForced } from '../../benchmarks/claims/measures.js';
import { drawPlot } from '../../benchmarks/claims/plot.js';
import { planned } from '../../benchmarks/claims/runner.js';
import { featuresOf, heldOut } from '../../benchmarks/claims/trained_model.js';
import { Workshop } from '../../benchmarks/claims/workshop.js';
import { Device } from '../../lib/device.js';
import { scope } from '../../lib/tensor.js';
import { BitwiseSelfCorrection } from '../../lib/training/self_correction.js';

/** A result with a number for whatever is asked of it. */
function anyResult(config: Result['config'], index: number): Result {
  const values: Values = new Proxy({}, { get: (_, name) => (String(name).length + 1) * (1 + (index % 7) / 10) });
  return { config, values };
}

describe('claims: experiments', () => {
  for (const experiment of EXPERIMENTS) {
    it(`${experiment.name} is read from nothing, from a part and from everything`, () => {
      const all = experiment.cells(false).map(({ config }, i) => anyResult(config, i));
      const parts = [[], all.slice(0, 1), all.filter((_, i) => i % 3 === 0), all.slice(-2), all];
      for (const results of parts) {
        const { tables, plots, findings } = experiment.read(results);
        for (const { head, rows } of tables)
          for (const row of rows) {
            assert.equal(row.length, head.length);
            assert.doesNotMatch(row.join(), /NaN|undefined/);
          }
        for (const plot of plots) assert.doesNotMatch(drawPlot(plot) ?? '', /NaN|undefined|Infinity/);
        for (const { text } of findings) assert.doesNotMatch(text, /NaN|undefined/);
      }
      const { tables, plots, findings } = experiment.read(all);
      assert.ok(tables.length > 0 && plots.length > 0 && findings.length > 0);
      for (const { text } of findings) assert.match(text, /\d/, 'no sentence without its numbers');
    });
  }

  it('have names, cells and files of their own', () => {
    for (const short of [false, true]) {
      const keys = planned(EXPERIMENTS, short).map(({ key }) => key);
      assert.equal(new Set(keys).size, keys.length);
    }
    const files = EXPERIMENTS.flatMap((e: Experiment) =>
      e.read(e.cells(false).map(({ config }, i) => anyResult(config, i))).plots.map(({ name }) => name),
    );
    assert.equal(new Set(files).size, files.length);
    assert.equal(new Set(EXPERIMENTS.map(({ name }) => name)).size, EXPERIMENTS.length);
  });

  it('keep the budget of 150 minutes', () => {
    const seconds = planned(EXPERIMENTS, false).reduce((sum, { cell }) => sum + cell.seconds, 0);
    assert.ok(seconds <= 150 * 60, `${seconds} s`);
  });

  it('are measured at three seeds where anything is drawn', () => {
    for (const experiment of EXPERIMENTS) {
      const seeds = new Set(experiment.cells(false).map(({ config }) => config.seed));
      assert.ok(seeds.has(undefined as never) || seeds.size >= 3, experiment.name);
    }
  });
});

describe('claims: measures', function () {
  // The first test trains two small networks.
  this.timeout(60_000);
  let device: Device;
  let directory: string;
  let context: Context;
  let steps = 0;
  before(async () => {
    device = Device.create('cpu');
    directory = await mkdtemp(join(tmpdir(), 'node-infinity-claims-'));
    const { signal } = new AbortController();
    const workshop = new Workshop(directory, { device, signal, onStep: () => steps++ });
    context = { device, workshop, signal };
  });
  after(async () => {
    device.close();
    await rm(directory, { recursive: true, force: true });
  });

  const variation = { seed: 1, iterations: 2, tokenizerSteps: 1, bits: 8, width: 32, depth: 1 };

  it('train a model once', async () => {
    await withTrained(context, variation, async () => undefined);
    assert.equal(steps, 3);
    await withTrained(context, variation, async () => undefined);
    assert.equal(steps, 3);
  });

  it('teacher forcing is the loss of training without noise, in nats a token', async () => {
    await withTrained(context, variation, async (model) => {
      const pictures = 5;
      const forced = await teacherForced(model, pictures);
      for await (const batch of heldOut(model.size, pictures)) {
        const features = featuresOf(model, batch);
        const out = scope(() => {
          const correction = new BitwiseSelfCorrection({ layers: 0, strength: 0, requant: false });
          const { inputs_BLD, labels_BLP } = correction.apply(features, model.schedule, { seed: 1, step: 0 });
          const text = model.encodeText(batch.captions);
          return model.transformer.loss(inputs_BLD, labels_BLP, { text, schedule: model.schedule });
        });
        const bits = 8;
        const [loss] = await out.loss.readFloats();
        assert.ok(Math.abs(forced.loss - loss! * bits) < 1e-5 * forced.loss);
        const correct = Float32Array.from(await out.correct.readFloats()).reduce((a, c) => a + c, 0);
        assert.ok(Math.abs(forced.accuracy - correct / (out.correct.size * bits)) < 1e-9);
        for (const t of [features, ...Object.values(out)]) t.dispose();
      }
      // Four scales of 1, 4, 9 and 16 tokens.
      const mean = forced.losses.reduce((sum, l, k) => sum + l * (k + 1) ** 2, 0) / 30;
      assert.ok(Math.abs(mean - forced.loss) < 1e-9 * mean);
    });
  });

  it('a picture whose scales are all given comes back, and one with inverted bits does not', async () => {
    await withTrained(context, variation, async (model) => {
      const whole = await completed(model, 3, { scales: 4, share: 0 });
      assert.equal(whole.drawn, Number.POSITIVE_INFINITY);
      const noisy = await completed(model, 3, { scales: 4, share: 0.3 });
      assert.ok(noisy.drawn < 60);
      assert.equal(noisy.drawn, noisy.unrepaired, 'nothing is left to draw');
      const { repaired, unrepaired } = await completed(model, 3, { scales: 1, share: 0.3 });
      assert.ok(repaired > unrepaired, `${repaired} ${unrepaired}`);
    });
  });

  it('two sets of held-out pictures are nearer than a model that has learned nothing', async () => {
    await withTrained(context, variation, async (model) => {
      const { drawn, floor } = await distances(model, 16);
      assert.ok(floor > 0 && drawn > floor, `${drawn} ${floor}`);
    });
  });

  it('weights of the classifiers are counted by the allocator', async () => {
    const values = async (head: string): Promise<Values> => {
      const cell = classifierMemory.cells(true).find(({ config }) => config.head === head)!;
      return cell.run(context);
    };
    for (const [head, outputs] of [
      ['bitwise', 16],
      ['softmax', 256],
    ] as const) {
      const { weight_bytes: bytes = 0, training_bytes: training = 0 } = await values(head);
      const exact = 4 * 2049 * outputs;
      assert.ok(bytes >= exact && bytes < exact + 1024);
      // Weights, gradient and two moments.
      assert.ok(training >= 4 * exact);
    }
  });
});
