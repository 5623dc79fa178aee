/** Bitwise self-correction with recorded noise. */

import { unpackBits } from '../../../lib/ops/bits.js';
import { Tensor } from '../../../lib/tensor.js';
import { mapOfTokens, splitScales } from '../../../lib/tokenizer/bit_tokens.js';
import { patchifySchedule, type ScaleSchedule, scaleTokens, tokenCount } from '../../../lib/tokenizer/schedule.js';
import { BitwiseSelfCorrection } from '../../../lib/training/self_correction.js';
import { channelsFirst, channelsLast, download, type HostArray, reshaped, upload } from '../array.js';
import type { GoldenCase } from '../case.js';

interface BscFields {
  readonly config: {
    readonly scale_schedule: ScaleSchedule;
    readonly apply_spatial_patchify?: boolean | number;
    readonly noise_apply_layers: number;
    readonly noise_apply_strength: number;
    readonly noise_apply_requant: boolean | number;
  };
}

/**
 * Numbers [B, L, d] over the latent positions of all scales, from one stored map [B, 1, h, w, d] a scale. A scale without one
 * gets the largest number, below which no strength lies.
 */
export function uniformOfScales(
  maps: readonly (HostArray | undefined)[],
  latent: ScaleSchedule,
  B: number,
  d: number,
): Float32Array {
  const L = tokenCount(latent);
  const all = new Float32Array(B * L * d).fill(1);
  let offset = 0;
  for (const [k, scale] of latent.entries()) {
    const n = scaleTokens(scale) * d;
    const map = maps[k];
    for (let b = 0; map && b < B; b++)
      for (let i = 0; i < n; i++) all[b * L * d + offset + i] = Number(map.data[b * n + i]);
    offset += n;
  }
  return all;
}

export async function bsc(c: GoldenCase): Promise<void> {
  const { config } = c.fields<BscFields>();
  const { scale_schedule: schedule } = config;
  const patchify = Boolean(config.apply_spatial_patchify);
  const latent = patchify ? patchifySchedule(schedule) : schedule;
  using features = upload(channelsLast(c.array('in.raw_features')));
  const [B, , , d] = features.shape as [number, number, number, number];
  const percents = c.numbers('in.strength_randint');
  const uniform = latent.map((_, k) => {
    const name = c.drawsOf('bit_flip', 'in.u.{k}', { k });
    return c.has(name) ? c.array(name) : undefined;
  });
  using flips = Tensor.from(uniformOfScales(uniform, latent, B, d), [B, tokenCount(latent), d]);
  const correction = new BitwiseSelfCorrection({
    layers: config.noise_apply_layers,
    strength: config.noise_apply_strength,
    requant: Boolean(config.noise_apply_requant),
    patchify,
  });
  const found = correction.apply(features, schedule, { percents, flips }, { trace: true });
  if (found.inputs_BLD) c.give('out.x_BLC_wo_prefix', await download(found.inputs_BLD));
  const bits_BLD = unpackBits(found.labels_BLP, patchify ? 4 * d : d);
  c.give('out.gt_bits_BLC', await download(bits_BLD));
  c.give('out.gt_lengths', schedule.map(scaleTokens));
  c.give('out.strength', found.strengths.slice(0, percents.length));
  c.give('out.cumulative_final', channelsFirst(await download(found.sum_BHWd)));

  const { residual_BLd, noisy_BLd } = found.trace!;
  const inputs = splitScales(residual_BLd, latent);
  const noisy = splitScales(noisy_BLd, latent);
  const labels = splitScales(bits_BLD, schedule);
  for (const [k, [, h, w]] of schedule.entries()) {
    c.give(`out.lfq_in.${k}`, channelsFirst(await download(inputs[k]!)));
    const tokens = labels[k]!;
    using rows = tokens.view([B, h * w, tokens.shape[3]!]);
    using map = mapOfTokens(rows, [h, w], patchify);
    const gt = withTime(await download(map));
    const pred = withTime(await download(noisy[k]!));
    c.give(`out.gt_bits.${k}`, gt);
    c.give(`out.pred_bits.${k}`, pred);
    c.give(`out.flip_mask.${k}`, {
      shape: gt.shape,
      data: Uint8Array.from(gt.data as Uint8Array, (bit, i) => Number(bit !== pred.data[i])),
    });
  }
  const tensors = [
    found.inputs_BLD,
    found.labels_BLP,
    bits_BLD,
    found.sum_BHWd,
    residual_BLd,
    noisy_BLd,
    ...inputs,
    ...noisy,
    ...labels,
  ];
  for (const tensor of tensors) tensor?.dispose();
}

/** [B, h, w, d] -> [B, 1, h, w, d]. */
function withTime(map: HostArray): HostArray {
  const [B, ...rest] = map.shape;
  return reshaped(map, [B!, 1, ...rest]);
}
