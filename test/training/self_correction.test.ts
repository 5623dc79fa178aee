import assert from 'node:assert/strict';
import { unpackBits } from '../../lib/ops/bits.js';
import { Tensor } from '../../lib/tensor.js';
import { splitScales } from '../../lib/tokenizer/bit_tokens.js';
import { parseGrids, type ScaleSchedule } from '../../lib/tokenizer/schedule.js';
import { BitwiseSelfCorrection } from '../../lib/training/self_correction.js';
import { channelsLast, GoldenCase } from '../support/golden_case.js';
import { assertClean, isaDevices, random } from '../support/numeric.js';

interface Config {
  codebook_dim: number;
  scale_schedule: ScaleSchedule;
  vae_scale_schedule: ScaleSchedule;
  apply_spatial_patchify: number;
  noise_apply_layers: number;
  noise_apply_strength: number;
  noise_apply_requant: number;
}

for (const [isa, device] of isaDevices()) {
  describe(`self-correction on ${isa}`, () => {
    let live = 0;
    beforeEach(() => {
      live = device.stats().liveTensors;
    });
    afterEach(() => assertClean(device, live));

    for (const name of ['d14_patchify', 'd16_no_noise', 'd16_norequant_3layers', 'd32_train_script']) {
      it(`agrees with bsc_${name}`, async function () {
        const golden = GoldenCase.read<Config>(this, `tokenizer/bsc_${name}`);
        const { codebook_dim: d, scale_schedule, vae_scale_schedule, ...c } = golden.config;
        const correction = new BitwiseSelfCorrection({
          layers: c.noise_apply_layers,
          strength: c.noise_apply_strength,
          requant: c.noise_apply_requant === 1,
          patchify: c.apply_spatial_patchify === 1,
        });
        const raw = channelsLast(golden.array('in.raw_features'));
        const B = raw.shape[0]!;
        // Scales without recorded numbers have no noise either: 1 is never below a strength.
        const L = vae_scale_schedule.reduce((sum, [, h, w]) => sum + h * w, 0);
        const u = new Float64Array(B * L * d).fill(1);
        let at = 0;
        for (const [k, [, h, w]] of vae_scale_schedule.entries()) {
          const n = h * w * d;
          const draws = golden.has(`in.u.${k}`) ? golden.array(`in.u.${k}`).data : undefined;
          if (draws) for (let b = 0; b < B; b++) u.set(draws.subarray(b * n, (b + 1) * n), b * L * d + at);
          at += n;
        }
        const percents = golden.has('in.strength_randint') ? [...golden.array('in.strength_randint').data] : [];
        const features = Tensor.from(raw.data, raw.shape, 'f32', device);
        const flips = Tensor.from(u, [B, L, d], 'f32', device);
        const draws = { percents, flips };
        const out = correction.apply(features, scale_schedule, draws, { trace: true });
        golden.check('out.x_BLC_wo_prefix', await out.inputs_BLD!.read());
        using bits = unpackBits(out.labels_BLP, c.apply_spatial_patchify === 1 ? 4 * d : d);
        golden.check('out.gt_bits_BLC', await bits.read());
        golden.checkMap('out.cumulative_final', await out.sum_BHWd.read(), raw.shape);
        golden.check(
          'out.gt_lengths',
          scale_schedule.map(([, h, w]) => h * w),
        );
        if (golden.has('out.strength')) golden.check('out.strength', out.strengths.slice(0, c.noise_apply_layers));
        const { residual_BLd, noisy_BLd } = out.trace!;
        const [residuals, noisy] = [
          splitScales(residual_BLd, vae_scale_schedule),
          splitScales(noisy_BLd, vae_scale_schedule),
        ];
        for (const [k, map] of residuals.entries()) {
          const residual = await map.read();
          const inverted = await noisy[k]!.read();
          const labels = Uint8Array.from(residual, (v) => Number(v > 0));
          if (golden.has(`out.lfq_in.${k}`)) golden.checkMap(`out.lfq_in.${k}`, residual, map.shape);
          golden.check(`out.gt_bits.${k}`, labels);
          if (golden.has(`out.pred_bits.${k}`)) golden.check(`out.pred_bits.${k}`, inverted);
          if (golden.has(`out.flip_mask.${k}`))
            golden.check(
              `out.flip_mask.${k}`,
              labels.map((b, i) => b ^ inverted[i]!),
            );
        }
        // Without a trace the same comes out.
        const plain = correction.apply(features, scale_schedule, draws);
        assert.deepEqual(await plain.labels_BLP.read(), await out.labels_BLP.read());
        assert.deepEqual(await plain.inputs_BLD!.read(), await out.inputs_BLD!.read());
        for (const { inputs_BLD, labels_BLP, sum_BHWd } of [plain, out])
          for (const t of [inputs_BLD, labels_BLP, sum_BHWd]) t?.dispose();
        for (const t of [features, flips, residual_BLd, noisy_BLd, ...residuals, ...noisy]) t.dispose();
      });
    }

    it('draws are a function of seed, step and sample', async () => {
      const correction = new BitwiseSelfCorrection({ layers: 9, strength: 0.3, requant: true });
      const schedule = parseGrids('1 2 3');
      const features = random(device, 4, [2, 3, 3, 8]);
      const inputs = async (x: Tensor, seed: number, step: number, firstSample?: number) => {
        const out = correction.apply(x, schedule, {
          seed,
          step,
          ...(firstSample === undefined ? {} : { firstSample }),
        });
        const data = await out.inputs_BLD!.read();
        for (const t of [out.inputs_BLD!, out.labels_BLP, out.sum_BHWd]) t.dispose();
        return { data, strengths: out.strengths };
      };
      const both = await inputs(features, 1, 3);
      assert.deepEqual(await inputs(features, 1, 3, 6), both);
      const second = features.view([1, 3, 3, 8], 72);
      assert.deepEqual((await inputs(second, 1, 3, 7)).data, both.data.slice(both.data.length / 2));
      assert.notDeepEqual((await inputs(features, 2, 3)).data, both.data);
      for (const s of both.strengths) assert.ok(s >= 0 && s <= 0.3 && Math.abs(s * 100 - Math.round(s * 100)) < 1e-9);
      const seen = new Set<number>();
      const pixel = random(device, 4, [1, 1, 1, 1]);
      for (let step = 0; step < 400; step++) {
        const out = correction.apply(pixel, parseGrids('1 1'), { seed: 1, step });
        for (const share of out.strengths) seen.add(share);
        for (const t of [out.inputs_BLD!, out.labels_BLP, out.sum_BHWd]) t.dispose();
      }
      pixel.dispose();
      assert.equal(seen.size, 31, 'every percentage from 0 to 30 comes up');
      features.dispose();
      second.dispose();
    });

    it('cuts the largest strength as the official code does', async () => {
      const correction = new BitwiseSelfCorrection({ layers: 1, strength: 0.29, requant: true });
      const features = random(device, 4, [1, 1, 1, 2]);
      let largest = 0;
      for (let step = 0; step < 400; step++) {
        const out = correction.apply(features, parseGrids('1'), { seed: 3, step });
        assert.equal(out.inputs_BLD, null);
        largest = Math.max(largest, ...out.strengths);
        out.labels_BLP.dispose();
        out.sum_BHWd.dispose();
      }
      assert.equal(largest, 0.28);
      features.dispose();
    });

    it('takes one strength a scale, the last for all that follow', async () => {
      const listed = [0.5, 0, 0.1];
      const correction = new BitwiseSelfCorrection({ layers: 4, strength: listed, requant: true });
      const features = random(device, 4, [1, 1, 1, 2]);
      const most = [0, 0, 0, 0, 0];
      for (let step = 0; step < 400; step++) {
        const out = correction.apply(features, parseGrids('1 1 1 1 1'), { seed: 5, step });
        for (const [k, s] of out.strengths.entries()) most[k] = Math.max(most[k]!, s);
        for (const t of [out.inputs_BLD!, out.labels_BLP, out.sum_BHWd]) t.dispose();
      }
      assert.deepEqual(most, [0.5, 0, 0.1, 0.1, 0]);
      features.dispose();
      for (const strength of [[], [0.3, 1.2]])
        assert.throws(() => new BitwiseSelfCorrection({ layers: 3, strength, requant: true }), {
          code: 'INVALID_ARGUMENT',
        });
    });

    it('refuses features that are not the last scale', () => {
      const correction = new BitwiseSelfCorrection({ layers: -1, strength: -1, requant: true });
      const features = random(device, 1, [1, 4, 4, 2]);
      assert.throws(() => correction.apply(features, parseGrids('1 2'), { seed: 0, step: 0 }), {
        code: 'INVALID_ARGUMENT',
      });
      assert.throws(() => new BitwiseSelfCorrection({ layers: 3, strength: 2, requant: true }), {
        code: 'INVALID_ARGUMENT',
      });
      features.dispose();
    });
  });
}
