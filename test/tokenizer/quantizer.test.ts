import assert from 'node:assert/strict';
import type { Device } from '../../lib/device.js';
import { readSafetensors } from '../../lib/io/safetensors.js';
import { toFloat32 } from '../../lib/io/tensor_data.js';
import { placed } from '../../lib/nn/module.js';
import { bitsToCodes } from '../../lib/ops/bits.js';
import { add, mul, scale, sumTo } from '../../lib/ops/elementwise.js';
import { Tape } from '../../lib/tape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { addCodes, integerLabels, nextInput } from '../../lib/tokenizer/bit_tokens.js';
import {
  droppedScales,
  MultiScaleQuantizer,
  type QuantizerConfig,
  smallFraction,
} from '../../lib/tokenizer/quantizer.js';
import { finestGrid, parseGrids, type ScaleSchedule } from '../../lib/tokenizer/schedule.js';
import { channelsLast, GoldenCase } from '../support/golden_case.js';
import { requireGolden } from '../support/goldens.js';
import { assertClean, isaDevices, random } from '../support/numeric.js';

interface Seen {
  readonly data: Float32Array | Float64Array | Int32Array | Uint8Array | Uint16Array;
  readonly shape: readonly number[];
}

/** Collects what a tap sees; the reads are in flight until `all()` resolves. */
class Recorder {
  private readonly pending: Promise<void>[] = [];
  readonly seen = new Map<string, Seen>();
  readonly tap = (name: string, value: Tensor): void => {
    const { shape } = value;
    this.pending.push(value.read().then((data) => void this.seen.set(name, { data, shape })));
  };
  async all(): Promise<ReadonlyMap<string, Seen>> {
    await Promise.all(this.pending);
    return this.seen;
  }
}

const make = (device: Device, config: QuantizerConfig, dtype: 'f32' | 'f64' = 'f32') =>
  placed({ device, dtype }, () => new MultiScaleQuantizer(config));

interface TrainKwargs {
  new_quant: boolean;
  remove_residual_detach?: boolean;
  use_stochastic_depth?: boolean;
  drop_rate?: number;
  keep_last_quant?: boolean;
  random_flip?: boolean;
  flip_prob?: number;
  max_flip_lvl?: number;
  use_decay_factor?: boolean;
}

for (const [isa, device] of isaDevices()) {
  describe(`multi-scale quantizer on ${isa}`, () => {
    let live = 0;
    beforeEach(() => {
      live = device.stats().liveTensors;
    });

    for (const name of ['d16_r1.000', 'd16_r1.500_0.25M', 'd32_r0.500', 'd64_r2.000', 'options_d16']) {
      it(`agrees with quant_eval_${name}`, async function () {
        interface Config {
          codebook_dim: number;
          scale_schedule: ScaleSchedule;
          overrides?: { dim?: number; ln_before_quant?: boolean; use_decay_factor?: boolean };
        }
        const golden = GoldenCase.read<Config>(this, `tokenizer/quant_eval_${name}`);
        const { codebook_dim: d, scale_schedule: schedule, overrides = {} } = golden.config;
        const quantizer = make(device, {
          codebookDim: d,
          dim: overrides.dim ?? d,
          layerNorm: overrides.ln_before_quant ?? false,
          decayFactor: overrides.use_decay_factor ?? false,
        });
        if (golden.has('in.x') && overrides.dim) {
          const file = requireGolden(this, `tokenizer/quant_eval_${name}.weights.safetensors`);
          const state = await readSafetensors(file);
          state.delete('lfq.mask');
          quantizer.load(new Map([...state].map(([n, t]) => [n, { shape: t.shape, data: toFloat32(t) }])));
        }
        const x = channelsLast(golden.array('in.x'));
        const features = Tensor.from(x.data, x.shape, 'f32', device);
        const recorder = new Recorder();
        const { quantized, bits } = quantizer.quantize(features, schedule, recorder.tap);
        golden.checkMap('out.quantized', await quantized.read(), quantized.shape);
        const seen = await recorder.all();
        for (const [tensor, { data, shape }] of seen) {
          if (tensor.startsWith('bits')) golden.check(`out.${tensor}`, data);
          else if (golden.has(`out.${tensor}`)) golden.checkMap(`out.${tensor}`, data, shape);
        }
        const inputs = schedule.map((_, k) => seen.get(`lfq_in.${k}`)!.data);
        golden.check(
          'out.residual_small_fraction',
          inputs.map((data) => smallFraction(data, d)),
        );
        for (const [k, scaleBits] of bits.entries()) {
          const labels = integerLabels((await scaleBits.read()) as Uint8Array, d);
          golden.check(`out.index.${k}`, Array.from(labels, Number));
        }
        const last = bits.length - 1;
        const codes = bitsToCodes(bits[last]!);
        golden.checkMap(`out.codes_from_bits.${last}`, await codes.read(), codes.shape);

        const encoded = quantizer.encode(features, schedule);
        for (const [k, scaleBits] of encoded.entries()) golden.check(`out.bits.${k}`, await scaleBits.read());
        for (const t of [features, quantized, codes, ...bits, ...encoded]) t.dispose();
        quantizer.dispose();
        await assertClean(device, live);
      });
    }

    for (const name of ['d16_dense_dropout', 'd16_dynamic', 'd16_flip_decay', 'd32_dynamic_nonsquare', 'd64_same2']) {
      it(`agrees with quant_train_${name}`, async function () {
        interface Config {
          dim: number;
          quantizer_kwargs: TrainKwargs;
          lfq_weight: number;
          scale_schedule: ScaleSchedule;
        }
        const golden = GoldenCase.read<Config>(this, `tokenizer/quant_train_${name}`);
        const { dim, quantizer_kwargs: kwargs, lfq_weight, scale_schedule: schedule } = golden.config;
        const quantizer = make(device, {
          codebookDim: dim,
          newQuant: kwargs.new_quant,
          decayFactor: kwargs.use_decay_factor ?? false,
          removeResidualDetach: kwargs.remove_residual_detach ?? false,
        });
        const draws = [...golden.array('in.random_draws').data];
        const dropped = kwargs.use_stochastic_depth
          ? droppedScales(draws.slice(1), { rate: kwargs.drop_rate!, keepLast: kwargs.keep_last_quant ?? false })
          : undefined;
        const flipDraws = schedule.map((_, k) => {
          if (!golden.has(`in.flip_u.${k}`)) return null;
          const u = channelsLast(golden.array(`in.flip_u.${k}`));
          return Tensor.from(u.data, u.shape, 'f32', device);
        });
        const flips = kwargs.random_flip ? { probability: kwargs.flip_prob!, draws: flipDraws } : undefined;
        const x = channelsLast(golden.array('in.x'));
        const features = Tensor.from(x.data, x.shape, 'f32', device);
        const recorder = new Recorder();
        const result = quantizer.train(features, schedule, { dropped, flips, tap: recorder.tap });
        golden.checkMap('out.quantized', await result.quantized.read(), x.shape);
        const losses = await Promise.all(result.losses.map(async (t) => (await t.read())[0]!));
        golden.check('out.all_losses', losses);
        golden.check('out.kept_scales', result.kept);
        const mean = losses.reduce((a, b) => a + b) / losses.length;
        assert.ok(Math.abs((await result.loss.read())[0]! - mean) < 1e-6 * Math.abs(mean) + 1e-9);
        for (const [tensor, { data, shape }] of await recorder.all()) {
          const [kind, k] = tensor.split('.');
          if (kind === 'bits') golden.check(`out.${tensor}`, data);
          if (kind === 'lfq_in') golden.checkMap(`out.${tensor}`, data, shape);
          if (kind === 'residual' && golden.has(`out.residual_before.${k}`))
            golden.checkMap(`out.residual_before.${k}`, data, shape);
          if (kind === 'cumulative' && golden.has(`out.cumulative_before.${Number(k) + 1}`))
            golden.checkMap(`out.cumulative_before.${Number(k) + 1}`, data, shape);
        }
        for (const t of [result.quantized, result.loss, ...result.losses, ...result.bits]) t.dispose();

        const r = channelsLast(golden.array('in.cotangent'));
        const cotangent = Tensor.from(r.data, r.shape, 'f32', device);
        const one = Tensor.from([1], [], 'f32', device);
        const objectives: Record<string, (loss: Tensor, through: Tensor) => Tensor> = {
          'out.grad_loss': (loss) => scale(loss, lfq_weight),
          'out.grad_straight_through': (_, through) => through,
          'out.grad_total': (loss, through) => add(scale(loss, lfq_weight), through),
        };
        for (const [tensor, objective] of Object.entries(objectives)) {
          const tape = new Tape().watch(features);
          const total = tape.run(() => {
            const { loss, quantized } = quantizer.train(features, schedule, { dropped, flips });
            return objective(loss, sumTo(mul(quantized, cotangent), []));
          });
          const grads = tape.backward([{ of: total, cotangent: one }]);
          golden.checkMap(tensor, await grads.get(features)!.read(), x.shape);
          grads.dispose();
          total.dispose();
        }
        for (const t of [features, cotangent, one, ...flipDraws]) t?.dispose();
        await assertClean(device, live);
      });
    }

    it('agrees with bits_to_codes_d32_r1.000 on the running sum and the next input', async function () {
      const golden = GoldenCase.read<{ scale_schedule: ScaleSchedule }>(this, 'tokenizer/bits_to_codes_d32_r1.000');
      const { scale_schedule: schedule } = golden.config;
      let sum: Tensor | null = null;
      for (const [k, [, h, w]] of schedule.entries()) {
        const bits = Tensor.from(Uint8Array.from(golden.array(`in.bits.${k}`).data), [1, h, w, 32], 'u8', device);
        const before: Tensor | null = sum;
        sum = scope(() => addCodes(before, bitsToCodes(bits), finestGrid(schedule)));
        before?.dispose();
        bits.dispose();
        golden.checkMap(`out.summed.${k}`, await sum.read(), sum.shape);
        const next = schedule[k + 1];
        if (!next || !golden.has(`out.next_input.${k}`)) continue;
        const input = nextInput(sum, [next[1], next[2]]);
        golden.checkMap(`out.next_input.${k}`, await input.read(), input.shape);
        if (input !== sum) input.dispose();
      }
      sum?.dispose();
      await assertClean(device, live);
    });

    it('gives the same picture alone and in a batch', async () => {
      const schedule = parseGrids('1 2 3 5');
      const quantizer = make(device, { codebookDim: 14 });
      const features = random(device, 3, [3, 5, 5, 14]);
      const alone = features.view([1, 5, 5, 14], 350);
      const [all, one] = [quantizer.quantize(features, schedule), quantizer.quantize(alone, schedule)];
      const whole = await all.quantized.read();
      assert.deepEqual(await one.quantized.read(), whole.slice(350, 700));
      for (const t of [features, alone, all.quantized, one.quantized, ...all.bits, ...one.bits]) t.dispose();
      await assertClean(device, live);
    });

    for (const spherical of [false, true])
      it(`encodes with ${spherical ? 'spherical ' : ''}LFQ what it quantises`, async () => {
        const schedule = parseGrids('1 2 3 5');
        const quantizer = make(device, { codebookDim: 10, kind: 'lfq', codebookScale: 0.75, spherical });
        const features = random(device, 4, [2, 5, 5, 10]);
        const { quantized, bits } = quantizer.quantize(features, schedule);
        const encoded = quantizer.encode(features, schedule);
        for (const [k, want] of bits.entries()) assert.deepEqual(await encoded[k]!.read(), await want.read());
        for (const t of [features, quantized, ...bits, ...encoded]) t.dispose();
        await assertClean(device, live);
      });

    it('refuses a step without scales and a schedule without any', () => {
      const quantizer = make(device, { codebookDim: 4 });
      const features = random(device, 1, [1, 2, 2, 4]);
      assert.throws(() => quantizer.train(features, parseGrids('1 2'), { dropped: [true, true] }), {
        code: 'INVALID_ARGUMENT',
      });
      assert.throws(() => quantizer.quantize(features, []), { code: 'INVALID_ARGUMENT' });
      features.dispose();
    });
  });
}

describe('scale dropout', () => {
  it('protects the scales it is told to', () => {
    assert.deepEqual(droppedScales([0.1, 0.6, 0.1], { rate: 0.5 }), [true, false, true]);
    assert.deepEqual(droppedScales([0.1, 0.6, 0.1], { rate: 0.5, keepLast: true }), [true, false, false]);
    assert.deepEqual(droppedScales([0.1, 0.6, 0.1], { rate: 0.5, keepFirst: true }), [false, false, true]);
  });
});
