import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { type HostTensor, placed } from '../../lib/nn/module.js';
import { Tape } from '../../lib/tape.js';
import { scope, sizeOf, Tensor } from '../../lib/tensor.js';
import { type ScaleSchedule, tokenCount } from '../../lib/tokenizer/schedule.js';
import {
  type InfinityConfig,
  officialInfinityConfig,
  parseInfinityConfig,
  tokenBits,
} from '../../lib/transformer/config.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { sampleScales } from '../../lib/transformer/sampler.js';
import { randomArray, randomLabels, relativeError } from '../support/numeric.js';
import { PlainTransformer, type Rows } from '../support/plain_transformer.js';

const SQUARE: ScaleSchedule = [
  [1, 1, 1],
  [1, 2, 2],
  [1, 3, 3],
];
const WIDE: ScaleSchedule = [
  [1, 1, 1],
  [1, 1, 3],
  [1, 2, 4],
  [1, 2, 5],
];
const TALL: ScaleSchedule = [
  [1, 1, 1],
  [1, 3, 2],
  [1, 4, 2],
];

interface Combination {
  readonly config: Partial<InfinityConfig>;
  readonly schedule: ScaleSchedule;
  /** Grid that positions are stretched to: the last one of a longer schedule of the ratio. */
  readonly finest: readonly [number, number];
  readonly lens: readonly number[];
  readonly negativeLens?: readonly number[];
  readonly guidance: readonly number[];
  readonly layers: readonly number[];
  readonly tau: readonly number[];
}

/** Combinations of options that the recorded cases do not have. */
const COMBINATIONS: Readonly<Record<string, Combination>> = {
  'patches, own modulation, chunks of one, RMS norms, gates, all options at once': {
    config: {
      embed_dim: 16,
      depth: 3,
      num_heads: 2,
      block_chunks: 3,
      mlp_ratio: 16,
      apply_spatial_patchify: true,
      shared_aln: false,
      add_lvl_embeding_only_first_block: false,
      rms_norm: true,
      swiglu: true,
      nm0: true,
      head_depth: 2,
      cross_attn_layer_scale: 0.5,
      cos_attn: false,
      tau: 1.7,
      rope2d_normalized_by_hw: 1,
    },
    schedule: WIDE,
    finest: [45, 90],
    lens: [1, 4],
    guidance: [3, 1, 2, 0],
    layers: [0, -1],
    tau: [1, 0.5, 2, 0.9],
  },
  'two chunks of two, levels for each, guidance in two hidden states, negative prompts of other lengths': {
    config: {
      embed_dim: 24,
      depth: 4,
      num_heads: 3,
      block_chunks: 2,
      add_lvl_embeding_only_first_block: false,
      nm0: true,
    },
    schedule: TALL,
    finest: [90, 45],
    lens: [3, 1],
    negativeLens: [1, 4],
    guidance: [1, 2.5, -1],
    layers: [-1, -3],
    tau: [0.3, 1, 1],
  },
  'one chunk, a level for each block, plain positions, no cosine, negative prompts, guidance ends early': {
    config: {
      embed_dim: 16,
      depth: 2,
      num_heads: 4,
      add_lvl_embeding_only_first_block: false,
      cos_attn: false,
      tau: 0.6,
      rope2d_normalized_by_hw: 0,
      cross_attn_layer_scale: 0,
      text_channels: 256,
    },
    schedule: SQUARE,
    finest: [64, 64],
    lens: [4],
    negativeLens: [2],
    guidance: [4, 1.5, 1],
    layers: [0, 1],
    tau: [1, 1, 0.1],
  },
  'patches, own modulation in one chunk, LayerNorm of codes, widths of a pool head that are odd': {
    config: {
      embed_dim: 20,
      depth: 2,
      num_heads: 5,
      apply_spatial_patchify: true,
      shared_aln: false,
      nm0: true,
      head_depth: 2,
      text_channels: 512,
      norm_eps: 1e-3,
    },
    schedule: TALL,
    finest: [78, 52],
    lens: [2, 4, 1],
    guidance: [1, 1, 1],
    layers: [0],
    tau: [1, 1, 1],
  },
};

function build({ config, schedule }: Combination): { model: InfinityTransformer; state: Map<string, HostTensor> } {
  const options = parseInfinityConfig({
    ...officialInfinityConfig('infinity_layer12'),
    block_chunks: 1,
    text_channels: 128,
    text_maxlen: 4,
    vae_embed_dim: 3,
    ...config,
    scale_schedules: [schedule],
  });
  const model = placed({ dtype: 'f64' }, () => new InfinityTransformer(options));
  const state = new Map<string, HostTensor>();
  for (const [name, shape] of model.stateShapes()) {
    const fan = shape.length === 2 ? shape[1]! : 4;
    let data = Float32Array.from(randomArray(state.size + 7, sizeOf(shape), 1.7 / Math.sqrt(fan)));
    if (name.endsWith('zero_k_bias')) data.fill(0);
    if (/norm.*\.weight$/.test(name) && shape.length === 1) data = data.map((v) => 1 + v / 2);
    // The constant of a norm without weights, and gains on both sides of their limit of ln 100.
    if (name.includes('ln_wo_grad')) data.fill(1);
    if (name.includes('scale_mul')) data = data.map((v, i) => (i % 2 ? 5 : 1 + v));
    state.set(name, { shape, data });
  }
  model.load(state);
  return { model, state };
}

const rowsOf = (seed: number, count: number, width: number, scale = 1): Rows => {
  const all = randomArray(seed, count * width, scale);
  return Array.from({ length: count }, (_, n) => all.slice(n * width, (n + 1) * width));
};
const flat = (rows: readonly Rows[]): Float64Array => Float64Array.from(rows.flat().flatMap((row) => [...row]));

function features(prompts: readonly Rows[]): { kv_NCt: Tensor; lens: number[] } {
  const lens = prompts.map((p) => p.length);
  const total = lens.reduce((a, n) => a + n, 0);
  return { kv_NCt: Tensor.from(flat(prompts), [total, prompts[0]![0]!.length], 'f64'), lens };
}

describe('transformer options in combination', () => {
  for (const [title, combination] of Object.entries(COMBINATIONS)) {
    const { schedule, finest, lens, negativeLens, guidance, layers, tau } = combination;

    it(`${title}: training and drawing equal the plain oracle`, async () => {
      const live = Device.default().stats().liveTensors;
      const { model, state } = build(combination);
      const { text_channels: Ct } = model.config;
      const D = tokenBits(model.config);
      const prompts = lens.map((n, b) => rowsOf(100 + b, n, Ct));
      const negatives = negativeLens?.map((n, b) => rowsOf(200 + b, n, Ct));
      const bits = schedule.map(([, h, w], k) =>
        lens.map((_, b) => rowsOf(300 + 10 * k + b, h * w, D).map((row) => row.map((v) => Number(v > 0)))),
      );
      const oracle = new PlainTransformer(model.config, state);
      const common = { prompts, negatives, schedule, finest, bits };
      const plain = oracle.run({ ...common, guidance: schedule.map(() => 1), layers: [0], tau: schedule.map(() => 1) });
      const guided = oracle.run({ ...common, guidance, layers, tau });

      const text = features(prompts);
      const negative = negatives && features(negatives);
      const perSample = (rows: readonly (readonly Rows[])[]) =>
        lens.map((_, b) => rows.flatMap((scale) => scale[b] ?? []));
      const L = tokenCount(schedule);
      const x = Tensor.from(flat(perSample(plain.inputs)), [lens.length, L - 1, D], 'f64');
      const logits = model.forward(x, { text, schedule, finest });
      const trained = relativeError(await logits.readFloats(), flat(perSample(plain.logits)));
      assert.ok(trained < 1e-5, `teacher forcing differs by ${trained}`);

      const seen = new Map<string, Tensor>();
      const forced = bits.map((scale) => Uint8Array.from(flat(scale)));
      const images = lens.map((_, image) => ({ seed: 1, image }));
      const tap = (name: string, value: Tensor) => void seen.set(name, value.retain());
      const request = { text, negative, schedule, finest, images, guidance, guidanceLayers: layers, tau, forced, tap };
      for await (const { scale: k } of sampleScales(model, request)) {
        const drawn = relativeError(await seen.get(`logits.s${k}`)!.readFloats(), flat(guided.logits[k]!));
        assert.ok(drawn < 1e-5, `scale ${k} differs by ${drawn}`);
        if (k > 0) {
          const input = relativeError(await seen.get(`input.s${k}`)!.readFloats(), flat(guided.inputs[k]!));
          assert.ok(input < 1e-6, `the input of scale ${k} differs by ${input}`);
        }
      }
      for (const tensor of [...seen.values(), x, logits, text.kv_NCt, negative?.kv_NCt, model]) tensor?.dispose();
      await Device.default().sync();
      assert.equal(Device.default().stats().liveTensors, live, 'tensors leaked');
    });

    it(`${title}: gradients equal finite differences`, async () => {
      const { model, state } = build(combination);
      const D = tokenBits(model.config);
      const B = lens.length;
      const L = tokenCount(schedule);
      const text = features(lens.map((n, b) => rowsOf(100 + b, n, model.config.text_channels)));
      using x = Tensor.from(randomArray(1, B * (L - 1) * D), [B, L - 1, D], 'f64');
      using labels = randomLabels(2, [B, L, D]);
      const dropText = lens.map((_, b) => b === 1);
      const options = { text, schedule, finest, dropText, reweight: true, labelSmoothing: 0.1 };
      const parameters = [...model.namedParameters()];
      const tape = new Tape().watch(...parameters.map(([, p]) => p));
      const parts = tape.run(() => model.loss(x, labels, options));
      using one = Tensor.from([1], [], 'f64');
      const found = tape.backward([{ of: parts.loss, cotangent: one }]);

      // One random direction through all parameters: any wrong gradient among them shows.
      const directions = parameters.map(([, p], n) => randomArray(900 + n, p.size));
      let slope = 0;
      for (const [n, [, p]] of parameters.entries()) {
        const gradient = (await found.get(p)?.readFloats()) ?? [];
        for (const [i, g] of gradient.entries()) slope += g * directions[n]![i]!;
      }
      const lossAt = async (step: number): Promise<number> => {
        for (const [n, [name, p]] of parameters.entries())
          p.write(Float64Array.from(state.get(name)!.data, (v, i) => v + step * directions[n]![i]!));
        const moved = scope(() => model.loss(x, labels, options).loss);
        const [value] = await moved.readFloats();
        moved.dispose();
        return value!;
      };
      const h = 1e-6;
      const difference = ((await lossAt(h)) - (await lossAt(-h))) / (2 * h);
      assert.ok(
        Math.abs(slope - difference) < 1e-6 * Math.max(1, Math.abs(slope)),
        `${slope} instead of ${difference}`,
      );
      assert.ok(Math.abs(slope) > 1e-3);
      found.dispose();
      for (const tensor of [...Object.values(parts), text.kv_NCt, model]) tensor.dispose();
    });
  }
});
