import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { toFloat32, toFloat64 } from '../../lib/io/tensor_data.js';
import { placed } from '../../lib/nn/module.js';
import { Tensor } from '../../lib/tensor.js';
import { sumOfBits } from '../../lib/tokenizer/bit_tokens.js';
import { FREE_BIT, keptSums } from '../../lib/tokenizer/kept.js';
import { finestGrid } from '../../lib/tokenizer/schedule.js';
import { type InfinityConfig, officialInfinityConfig } from '../../lib/transformer/config.js';
import { Guidance } from '../../lib/transformer/guidance.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { type SampleOptions, sampleScales } from '../../lib/transformer/sampler.js';
import { type CaseJson, TransformerCase } from '../support/transformer_case.js';

interface SampleJson extends CaseJson {
  readonly options: {
    cfg_list: number[];
    tau_list: number[];
    top_k: number;
    top_p: number;
    cfg_insertion_layer: number[];
    gt_leak?: number;
  };
  readonly lens: number[];
  readonly negative_lens: number[] | null;
}

const CASES = [
  'd1_infer_greedy_no_cfg',
  'd2_infer_greedy_cfg3_logits',
  'd3_infer_sampled_full_schedule',
  'd4_infer_sampled_cfg_in_hidden',
  'd5_infer_sampled_cfg_both_negative_prompt',
  'd6_infer_unshared_adaln_lvl_every_chunk',
  'd7_infer_patchify_sampled_forced_prefix',
  'd8_infer_patchify_greedy_probs_flag',
];

/** [B, 1, H, W, d] in the tokenizer's layout to [B, L, D]; each token holds `patch` × `patch` positions. */
function toTokens(bits: ArrayLike<number>, [B, , H, W, d]: readonly number[], patch: number): Uint8Array {
  const [h, w, D] = [H! / patch, W! / patch, d! * patch * patch];
  const out = new Uint8Array(B! * h * w * D);
  for (let b = 0; b < B!; b++)
    for (let y = 0; y < H!; y++)
      for (let x = 0; x < W!; x++)
        for (let c = 0; c < d!; c++) {
          const token = (b * h + Math.floor(y / patch)) * w + Math.floor(x / patch);
          const channel = patch === 1 ? c : 4 * c + 2 * (y % 2) + (x % 2);
          out[token * D + channel] = bits[((b * H! + y) * W! + x) * d! + c]!;
        }
  return out;
}

/** [B, H, W, d] to [B, d, H, W]. */
function channelsFirst(values: ArrayLike<number>, [B, H, W, d]: readonly number[]): Float64Array {
  const out = new Float64Array(values.length);
  for (let b = 0; b < B!; b++)
    for (let p = 0; p < H! * W!; p++)
      for (let c = 0; c < d!; c++) out[(b * d! + c) * H! * W! + p] = values[(b * H! * W! + p) * d! + c]!;
  return out;
}

describe('sampler', () => {
  for (const name of CASES)
    it(`${name} draws what the reference draws`, async function () {
      const live = Device.default().stats().liveTensors;
      const golden = new TransformerCase<SampleJson>(this, name);
      const { options, scale_schedule: schedule } = golden.json;
      const model = golden.model();
      const patch = model.config.apply_spatial_patchify ? 2 : 1;
      const kv_NCt = golden.floats('kv_compact');
      const negative = golden.json.negative_lens && {
        kv_NCt: golden.floats('neg_kv_compact'),
        lens: golden.json.negative_lens,
      };
      const stored = schedule.map((_, k) => {
        const { shape } = golden.host(`bits.s${k}`);
        return toTokens(toFloat64(golden.host(`bits.s${k}`)), shape, patch);
      });
      const request: SampleOptions = {
        text: { kv_NCt, lens: golden.json.lens },
        negative: negative ?? undefined,
        schedule,
        finest: golden.finest(),
        images: golden.json.lens.map((_, image) => ({ seed: 1, image })),
        guidance: options.cfg_list,
        guidanceLayers: options.cfg_insertion_layer,
        tau: options.tau_list,
        topK: options.top_k,
        topP: options.top_p,
        draws: schedule.map((_, k) => {
          const draws = golden.tensors.get(`uniform_draws.s${k}`);
          return draws && toFloat32(draws);
        }),
      };

      // First with the stored bits of all scales, so that every scale is compared from the same past.
      const taps = new Map<string, Tensor>();
      const tap = (tapped: string, value: Tensor) => void taps.set(tapped, value.retain());
      for await (const { scale, sum_BHWd } of sampleScales(model, { ...request, forced: stored, tap }))
        golden.check(`summed_codes.s${scale}`, channelsFirst(await sum_BHWd.readFloats(), sum_BHWd.shape));
      for (const kind of ['input', 'hidden', 'logits', 'prob_of_0', 'sampled_class'])
        for (const output of golden.outputs(`${kind}.s*`))
          golden.check(output, await (taps.get(output) ?? assert.fail(`no ${output}`)).readFloats());
      for (const t of taps.values()) t.dispose();

      // Then freely, but for the scales that the case gives.
      const forced = stored.map((bits, k) => (k < (options.gt_leak ?? 0) ? bits : undefined));
      for await (const { scale, scales, bits, sum_BHWd } of sampleScales(model, { ...request, forced })) {
        assert.deepEqual(await bits.read(), stored[scale], `bits of scale ${scale}`);
        if (scale === scales - 1)
          golden.check('final_latent', channelsFirst(await sum_BHWd.readFloats(), sum_BHWd.shape));
      }
      for (const t of [kv_NCt, negative?.kv_NCt, model]) t?.dispose();
      assert.equal(Device.default().stats().liveTensors, live, 'tensors leaked');
    });
});

const SMALL: InfinityConfig = officialInfinityConfig('infinity_layer12', {
  embed_dim: 64,
  depth: 3,
  num_heads: 2,
  block_chunks: 1,
  text_channels: 128,
  text_maxlen: 12,
  vae_embed_dim: 8,
  scale_schedules: [
    [
      [1, 1, 1],
      [1, 2, 2],
      [1, 3, 3],
      [1, 5, 5],
    ],
  ],
});
const schedule = SMALL.scale_schedules![0]!;

describe('sampler requests', () => {
  let model: InfinityTransformer;
  let live = 0;
  const features = new Map<number, Float32Array>();
  const rowsOf = (prompt: number): Float32Array => {
    const rows = 3 + (prompt % 4);
    const values =
      features.get(prompt) ?? Float32Array.from({ length: rows * 128 }, (_, i) => Math.sin(i * (prompt + 1)));
    features.set(prompt, values);
    return values;
  };

  /** Bits of every scale of every picture, for prompts that are told apart by a number. */
  async function draw(prompts: number[], seeds: number[], more: Partial<SampleOptions> = {}): Promise<Uint8Array[][]> {
    const lens = prompts.map((p) => rowsOf(p).length / 128);
    const rows = lens.reduce((a, b) => a + b, 0);
    using kv_NCt = Tensor.from(Float32Array.from(prompts.flatMap((p) => [...rowsOf(p)])), [rows, 128]);
    const pictures = prompts.map((): Uint8Array[] => []);
    const images = seeds.map((seed) => ({ seed, image: 0 }));
    for await (const { bits } of sampleScales(model, { text: { kv_NCt, lens }, schedule, images, ...more })) {
      const values = (await bits.read()) as Uint8Array;
      const each = values.length / prompts.length;
      for (const [b, picture] of pictures.entries()) picture.push(values.slice(b * each, (b + 1) * each));
    }
    return pictures;
  }

  before(() => {
    model = new InfinityTransformer(SMALL).initialize(3).freeze();
    // Leaves behind what a network keeps: its rotary table and the learned text.
    return draw([0], [1], { guidance: 2 });
  });
  beforeEach(async () => {
    await Device.default().sync();
    live = Device.default().stats().liveTensors;
  });
  afterEach(async () => {
    await Device.default().sync();
    assert.equal(Device.default().stats().liveTensors, live, 'tensors leaked');
  });
  after(() => model.dispose());

  it('gives a seed the same picture alone and in any batch', async () => {
    const seeds = [11, 12, 13, 14, 15, 16, 17, 18];
    const together = await draw([0, 1, 2, 3, 4, 5, 6, 7], seeds, { guidance: 2.5, tau: 0.8, topP: 0.97 });
    for (const b of [0, 3, 7])
      assert.deepEqual((await draw([b], [seeds[b]!], { guidance: 2.5, tau: 0.8, topP: 0.97 }))[0], together[b]);
    assert.notDeepEqual(together[0], (await draw([0], [12], { guidance: 2.5 }))[0]);
  });

  it('a scale after the last guided one runs no unconditional samples and draws the same', async () => {
    const strengths = [2, 3, 1, 1];
    assert.deepEqual(
      strengths.map((_, k) => new Guidance(strengths, [0], SMALL.depth).rowsAt(k, 5)),
      [10, 10, 5, 5],
    );
    assert.equal(new Guidance(strengths, [1], SMALL.depth).rowsAt(0, 5), 5);
    // With a guided last scale the third one carries unconditional samples along without using them.
    const without = await draw([0, 1], [5, 6], { guidance: strengths });
    const carried = await draw([0, 1], [5, 6], { guidance: [2, 3, 1, 1.5] });
    for (const b of [0, 1]) assert.deepEqual(without[b]!.slice(0, 3), carried[b]!.slice(0, 3));
    assert.notDeepEqual(without, await draw([0, 1], [5, 6], { guidance: 1 }));
  });

  it('forces single bits, for all pictures or each, and draws the others', async () => {
    const own = await draw([0, 1], [5, 6], { topK: 1 });
    const free = (k: number, i: number): boolean => (i * 7 + k) % 3 === 0;
    const opposite = own[0]!.map((bits, k) => bits.map((bit, i) => (free(k, i) ? FREE_BIT : 1 - bit)));
    const forced = await draw([0, 1], [5, 6], { topK: 1, forced: opposite });
    for (const [b, picture] of forced.entries())
      for (const [k, bits] of picture.entries())
        for (const [i, bit] of bits.entries()) {
          if (!free(k, i)) assert.equal(bit, opposite[k]![i]);
          // The first scale sees nothing of the forced bits.
          else if (k === 0) assert.equal(bit, own[b]![0]![i]);
        }
    const each = opposite.map((bits, k) => Uint8Array.from([...bits, ...own[1]![k]!]));
    const both = await draw([0, 1], [5, 6], { topK: 1, forced: each });
    assert.deepEqual(both, [forced[0], own[1]]);
    const all = await draw([0, 1], [5, 6], { topK: 1, forced: own[0]!.map((bits) => bits.map(() => FREE_BIT)) });
    assert.deepEqual(all, own);
  });

  it('keeps the running sum of a picture at some positions, whatever is drawn there', async () => {
    const [picture] = await draw([1], [7]);
    const [h, w] = finestGrid(schedule);
    const redrawn = Uint8Array.from({ length: h * w }, (_, i) => Number(i % 3 === 0));
    const kept = keptSums(picture!, schedule, redrawn, model);
    const own = picture!.map((bits, k) => Tensor.from(bits, [1, schedule[k]![1], schedule[k]![2], 8], 'u8'));
    using kv_NCt = Tensor.from(rowsOf(0), [rowsOf(0).length / 128, 128]);
    const text = { kv_NCt, lens: [kv_NCt.shape[0]!] };
    let changed = 0;
    for await (const { scale, sum_BHWd } of sampleScales(model, {
      ...{ text, schedule, images: [{ seed: 1, image: 0 }], kept, topK: 1 },
    })) {
      using plain = sumOfBits(own.slice(0, scale + 1), schedule);
      const [got, want] = [await sum_BHWd.readFloats(), await plain.readFloats()];
      for (let i = 0; i < got.length; i++) {
        if (redrawn[Math.floor(i / 8)]) changed += Number(got[i] !== want[i]);
        else assert.equal(got[i], want[i], `scale ${scale}, element ${i}`);
      }
    }
    assert.ok(changed > 0);
    // What follows reads the kept sums: the same request without them goes another way.
    const without = await draw([0], [1], { topK: 1 });
    assert.notDeepEqual(await draw([0], [1], { topK: 1, kept }), without);
    for (const t of [...own, kept.redrawn_1HW1, ...kept.sums_1HWd]) t.dispose();
  });

  it('an abort rejects with its reason at once and leaves nothing behind', async () => {
    for (let n = 0; n < 20; n++) {
      const controller = new AbortController();
      const reason = new Error(`stop ${n}`);
      const drawing = draw([0, 1], [n, n], { signal: controller.signal, guidance: 2 });
      if (n % 2) await new Promise((resolve) => setTimeout(resolve, n / 4));
      controller.abort(reason);
      await drawing.then(
        () => undefined,
        (error) => assert.equal(error, reason),
      );
    }
    await assert.rejects(draw([0], [1], { signal: AbortSignal.abort(new Error('before')) }), /before/);
    assert.equal((await draw([0], [1]))[0]!.length, schedule.length);
  });

  it('overlapping requests draw what each draws alone', async () => {
    const alone = [await draw([0], [1], { guidance: 2 }), await draw([3, 4], [2, 3], { topP: 0.9 })];
    const together = await Promise.all([draw([0], [1], { guidance: 2 }), draw([3, 4], [2, 3], { topP: 0.9 })]);
    assert.deepEqual(together, alone);
  });

  it('one thread and two draw the same, frozen or not', async () => {
    const want = await draw([2], [9], { guidance: 3 });
    for (const threads of [1, 2]) {
      const device = Device.create('cpu', { threads });
      const other = placed({ device }, () => new InfinityTransformer(SMALL)).initialize(3);
      using kv_NCt = Tensor.from(rowsOf(2), [rowsOf(2).length / 128, 128], 'f32', device);
      const text = { kv_NCt, lens: [kv_NCt.shape[0]!] };
      const request = { text, schedule, images: [{ seed: 9, image: 0 }], guidance: 3 };
      for await (const { scale, bits } of sampleScales(other, request))
        assert.deepEqual(await bits.read(), want[0]![scale], `${threads} threads, scale ${scale}`);
      device.close();
    }
  });

  it('names missing memory and gives back what it had taken', async () => {
    const device = Device.create('cpu', { memoryLimit: 2 ** 20 });
    const tight = placed({ device }, () => new InfinityTransformer({ ...SMALL, depth: 1 })).initialize(1);
    using kv_NCt = Tensor.from(rowsOf(0), [rowsOf(0).length / 128, 128], 'f32', device);
    const lens = [kv_NCt.shape[0]!];
    const [images, large] = [[{ seed: 1, image: 0 }], [...schedule.slice(0, 3), [1, 60, 60] as const]];
    tight.rope(large, [60, 60]);
    const before = device.stats().liveTensors;
    const drawing = async () => {
      for await (const _ of sampleScales(tight, { text: { kv_NCt, lens }, schedule: large, finest: [60, 60], images }));
    };
    await assert.rejects(drawing(), { code: 'OUT_OF_MEMORY' });
    assert.equal(device.stats().liveTensors, before);
    device.close();
  });

  it('leaving the loop early releases everything', async () => {
    using kv_NCt = Tensor.from(rowsOf(0), [rowsOf(0).length / 128, 128]);
    const text = { kv_NCt, lens: [kv_NCt.shape[0]!] };
    for await (const { scale } of sampleScales(model, { text, schedule, images: [{ seed: 1, image: 0 }] }))
      if (scale === 1) break;
  });

  it('refuses requests that make no sense, by name', async () => {
    const wrong: [Partial<SampleOptions>, RegExp][] = [
      [{ guidance: Number.NaN }, /guidance/],
      [{ guidance: [1, 2] }, /guidance/],
      [{ tau: 0 }, /tau/],
      [{ topK: -1 }, /topK/],
      [{ topP: 2 }, /topP/],
      [{ guidanceLayers: [-3] }, /guidance layers/],
      [{ images: [] }, /images/],
      [{ schedule: schedule.slice(1) }, /schedule/],
    ];
    for (const [options, message] of wrong)
      await assert.rejects(draw([0], [1], options), { code: 'INVALID_ARGUMENT', message });
  });
});
