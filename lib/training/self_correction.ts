/**
 * Bitwise self-correction: the transformer is trained on sums of codes with bits inverted at random, and its labels repair
 * them. Source: Infinity, infinity/models/bitwise_self_correction.py (flip_requant).
 */
import { invalidArgument } from '../errors.js';
import { drawKeys } from '../ops/bits.js';
import { type MultiscaleNoise, type MultiscaleOptions, multiscaleResidual } from '../ops/multiscale.js';
import { RandomStream, uniformDraw } from '../philox.js';
import { scope, type Tensor } from '../tensor.js';
import { patchifySchedule, type ScaleSchedule } from '../tokenizer/schedule.js';

/** How much noise, in which scales, and what it touches. */
export interface SelfCorrectionConfig {
  /** Scales from the first that get noise; official 13 (all of the largest schedule), 0 switches it off. */
  readonly layers: number;
  /** Largest share of inverted bits, in steps of 0.01; official 0.3. A list gives one a scale, its last for all that follow. */
  readonly strength: number | readonly number[];
  /** Inverted bits enter the running sum. Without it the noise changes nothing that is returned but the trace. */
  readonly requant: boolean;
  /** The transformer's tokens are 2 x 2 blocks of latent positions. */
  readonly patchify?: boolean;
}

/** Whether `strength` is a share from 0 to 1 or a list of them. */
export function isStrength(strength: unknown): strength is SelfCorrectionConfig['strength'] {
  const list: readonly unknown[] = Array.isArray(strength) ? strength : [strength];
  return list.length > 0 && list.every((s) => typeof s === 'number' && s >= 0 && s <= 1);
}

/** Philox draws of a training step: a sample's flips depend on its number in the run, not on its place in the batch. */
export interface StepDraws {
  readonly seed: number | bigint;
  readonly step: number;
  /** Number in the run of the batch's first sample; by default step * B. */
  readonly firstSample?: number;
}

/** Draws of another implementation, for comparison. */
export interface RecordedDraws {
  /** Percent of inverted bits of every noisy scale, integers from 0. */
  readonly percents: readonly number[];
  /** Uniform numbers over the latent positions of all scales, [B, L, d]; a bit is inverted where its number is below. */
  readonly flips: Tensor;
}

/** Inputs and labels of the transformer for one batch; D bits of a token are P = ceil(D / 8) bytes. */
export interface SelfCorrected {
  /** The running sum on the grid of every scale but the first, [B, L - L_0, D]; null for a single scale. */
  readonly inputs_BLD: Tensor | null;
  /** Labels, packed u8 [B, L, P] (`unpackBits` of D bits): those of the residual that the noisy codes before have left. */
  readonly labels_BLP: Tensor;
  readonly sum_BHWd: Tensor;
  /** Share of inverted bits, one a scale. */
  readonly strengths: readonly number[];
  readonly trace?: { readonly residual_BLd: Tensor; readonly noisy_BLd: Tensor };
}

/** Makes training batches of the transformer from the features of the frozen tokenizer. */
export class BitwiseSelfCorrection {
  constructor(readonly config: SelfCorrectionConfig) {
    const { layers, strength } = config;
    if (!Number.isInteger(layers)) invalidArgument('layers', 'an integer', layers);
    if (layers > 0 && !isStrength(strength))
      invalidArgument('strength', 'a share from 0 to 1 or a list of them', strength);
  }

  /**
   * Inputs and labels of one batch; no gradient.
   * @param features_BHWd encoder features at the finest latent grid
   * @param schedule the transformer's grids; with patchify the latent has twice their extents
   * @param trace also returns what was quantised and the bits after inversion, over latent positions
   * @param inputs type of the inputs, by default that of the features: 'bf16' on a card whose transformer has such activations
   */
  apply(
    features_BHWd: Tensor,
    schedule: ScaleSchedule,
    draws: StepDraws | RecordedDraws,
    { trace = false, inputs }: Pick<MultiscaleOptions, 'trace' | 'inputs'> = {},
  ): SelfCorrected {
    const { requant, patchify = false } = this.config;
    const latent = patchify ? patchifySchedule(schedule) : schedule;
    const [, h = 0, w = 0] = latent.at(-1) ?? [];
    if (h !== features_BHWd.shape[1] || w !== features_BHWd.shape[2])
      invalidArgument('schedule', 'a last scale as large as the features', latent.at(-1));
    return scope(() => {
      const strengths = this.strengths(schedule.length, draws);
      // Nothing is computed from the codes of the last scale but the sum: its noise matters to a trace alone.
      const used = trace ? strengths : strengths.with(-1, 0);
      const noisy = (requant || trace) && used.some((s) => s > 0);
      const noise = noisy ? { strengths: used, draws: flipSource(features_BHWd, draws), requant } : undefined;
      const grids = latent.map(([, rows, cols]) => [rows, cols] as const);
      return { ...multiscaleResidual(features_BHWd, grids, { noise, patchify, trace, inputs }), strengths };
    });
  }

  private strengths(scales: number, draws: StepDraws | RecordedDraws): number[] {
    const noisy = Math.max(0, Math.min(this.config.layers, scales));
    // The count of choices is cut to an integer as the official code does: 0.29 gives at most 0.28.
    const given = this.config.strength;
    const most = (k: number): number => (typeof given === 'number' ? given : given[Math.min(k, given.length - 1)]!);
    return Array.from({ length: scales }, (_, k) => {
      if (k >= noisy) return 0;
      if ('percents' in draws)
        return 0.01 * (draws.percents[k] ?? invalidArgument('percents', `${noisy} numbers`, draws.percents));
      const u = uniformDraw(draws.seed, { scale: k, image: draws.step, stream: RandomStream.flipStrength });
      return 0.01 * Math.floor(u * Math.floor(100 * most(k) + 1));
    });
  }
}

function flipSource(features_BHWd: Tensor, draws: StepDraws | RecordedDraws): MultiscaleNoise['draws'] {
  if ('percents' in draws) return draws.flips;
  const { seed, step, firstSample } = draws;
  const batch = features_BHWd.shape[0]!;
  const first = firstSample ?? step * batch;
  const images = Array.from({ length: batch }, (_, b) => ({ seed, image: first + b }));
  return { keys: drawKeys(images, features_BHWd.device) };
}
