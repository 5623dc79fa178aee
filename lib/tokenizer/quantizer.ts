/**
 * The multi-scale residual quantiser, over unit vectors (BSQ) or raw ones (LFQ): the definition, differentiable, with the
 * official options.
 * Sources: Infinity, infinity/models/bsq_vae/multiscale_bsq.py (MultiScaleBSQ.forward); BitVAE,
 * bitvae/modules/quantizer/multiscale_bsq.py (its losses, random flips and dropped scales).
 */
import { invalidArgument } from '../errors.js';
import { constant, ones, truncatedNormal, zeros } from '../nn/init.js';
import { Module, type Tap } from '../nn/module.js';
import { bitFlip, bitsToCodes, type UniformSource, unpackBits } from '../ops/bits.js';
import { add, mul, scale, sub } from '../ops/elementwise.js';
import { linear } from '../ops/linear.js';
import { multiscaleResidual } from '../ops/multiscale.js';
import { layerNorm } from '../ops/norm.js';
import {
  bsqPenalties,
  bsqQuantize,
  lfqMagnitude,
  lfqPenalties,
  lfqQuantize,
  type Penalties,
  type Quantized,
} from '../ops/quantize.js';
import { resizeArea, resizeLinear } from '../ops/resize.js';
import { reshape, zerosLike } from '../ops/shape.js';
import { type DType, scope, type Tensor } from '../tensor.js';
import { splitScales } from './bit_tokens.js';
import type { ScaleSchedule } from './schedule.js';

const LAYER_NORM_EPS = 1e-6;

export const QUANTIZER_KINDS = ['bsq', 'lfq'] as const;
export type QuantizerKind = (typeof QUANTIZER_KINDS)[number];

/** Options of the official quantiser; those of inference need `codebookDim` alone. */
export interface QuantizerConfig {
  /** Bits of a latent position, d. */
  readonly codebookDim: number;
  /**
   * "bsq", the default: unit vectors, codes +-1/sqrt(d), entropies bit by bit, memory linear in d. "lfq": features as they are,
   * codes +-codebookScale, entropies over all 2^d codes.
   */
  readonly kind?: QuantizerKind;
  /** LFQ's code elements, 1 by default; `spherical` gives inputs and codes that length instead. */
  readonly codebookScale?: number;
  readonly spherical?: boolean;
  /** Channels of the features; where it is not d, learned projections lead in and out. */
  readonly dim?: number;
  /** Layer norm before the first scale ("ln_before_quant"); `bySqrt` starts its weight at 1/sqrt(d). */
  readonly layerNorm?: boolean | 'bySqrt';
  /** Codes of scale k count max(0.1, 1 - 0.1 k) ("use_decay_factor"). */
  readonly decayFactor?: boolean;
  /** The gradient flows through the residuals of later scales too, as in the tokenizer's training scripts. */
  readonly removeResidualDetach?: boolean;
  /** false: the straight-through gradient is 1/sqrt(d) of itself ("new_quant" off). */
  readonly newQuant?: boolean;
  /** Weights in the loss of a scale: official 0.25 and 0.1. BSQ's entropies are divided by the inverse temperature as well. */
  readonly commitmentWeight?: number;
  readonly entropyWeight?: number;
  /** zeta * (gamma0 * per-sample entropy - gamma * codebook entropy): official 1 each. */
  readonly zeta?: number;
  readonly gamma0?: number;
  readonly gamma?: number;
  readonly inverseTemperature?: number;
}

/** What differs from step to step. */
export interface QuantizerTrainOptions {
  /** Scales that are left out of this step; at least one must stay. See `droppedScales`. */
  readonly dropped?: readonly boolean[];
  /** Code elements of scale k change sign where its draw is below the probability; scales without draws keep theirs. */
  readonly flips?: { readonly probability: number; readonly draws: readonly (UniformSource | null | undefined)[] };
  readonly tap?: Tap;
}

/** What a training step needs of the quantiser. */
export interface QuantizerTrainResult {
  readonly quantized: Tensor;
  /** Mean of `losses`, []. */
  readonly loss: Tensor;
  /** One [] for every scale in `kept`. */
  readonly losses: Tensor[];
  readonly kept: number[];
  /** Labels u8 [B, h, w, d] of the scales in `kept`. */
  readonly bits: Tensor[];
}

/**
 * Which scales a step leaves out: those whose draw is below the rate, except the protected ones.
 * @param draws one uniform number a scale
 */
export function droppedScales(
  draws: readonly number[],
  { rate, keepFirst = false, keepLast = false }: { rate: number; keepFirst?: boolean; keepLast?: boolean },
): boolean[] {
  const last = draws.length - 1;
  return draws.map((u, k) => u < rate && !(keepFirst && k === 0) && !(keepLast && k === last));
}

/** Share of the elements that are below 0.05/sqrt(d) in magnitude: the reference's measure of how much is left to code. */
export function smallFraction(values: ArrayLike<number>, d: number): number {
  const limit = Math.fround(0.05 / Math.sqrt(d));
  let small = 0;
  for (let i = 0; i < values.length; i++) small += Number(Math.abs(values[i]!) < limit);
  return small / values.length;
}

interface Scale {
  readonly k: number;
  readonly z: Tensor;
  readonly bits: Tensor;
}

/** Parameters, if any, have the official names; without projections and layer norm there are none. */
export class MultiScaleQuantizer extends Module {
  private readonly projections: { wIn: Tensor; bIn: Tensor; wOut: Tensor; bOut: Tensor } | undefined;
  private readonly norm: { w: Tensor; b: Tensor } | undefined;

  constructor(readonly config: QuantizerConfig) {
    super();
    const { codebookDim: d, dim = d, layerNorm: norm = false } = config;
    for (const [name, n] of Object.entries({ codebookDim: d, dim }))
      if (!(Number.isInteger(n) && n > 0)) invalidArgument(name, 'a positive integer', n);
    if (dim !== d) {
      const init = truncatedNormal(0.02);
      this.projections = {
        wIn: this.parameter('project_in.weight', [d, dim], init),
        bIn: this.parameter('project_in.bias', [d], zeros),
        wOut: this.parameter('project_out.weight', [dim, d], init),
        bOut: this.parameter('project_out.bias', [dim], zeros),
      };
    }
    if (norm) {
      this.norm = {
        w: this.parameter('layernorm.weight', [d], norm === 'bySqrt' ? constant(1 / Math.sqrt(d)) : ones),
        b: this.parameter('layernorm.bias', [d], zeros),
      };
    }
  }

  /** The mask of integer labels, which nothing reads. */
  protected override ignores(name: string): boolean {
    return name === 'lfq.mask';
  }

  /**
   * Quantises features without training.
   * @param features_BHWC C = `dim`
   * @param schedule grids on the latent, the last at most H x W
   * @param tap sees residual.k (before scale k), lfq_in.k, bits.k, codes.k, cumulative.k, and var_input.k, the sum on the
   *   next grid by area
   * @returns the sum of the codes [B, H, W, C], and the bits u8 [B, h_k, w_k, d] of every scale
   */
  quantize(features_BHWC: Tensor, schedule: ScaleSchedule, tap?: Tap): { quantized: Tensor; bits: Tensor[] } {
    return scope(() => {
      const { sum_BHWd, scales } = this.walk(this.prepare(features_BHWC), schedule, { tap });
      return { quantized: this.finish(sum_BHWd), bits: scales.map(({ bits }) => bits) };
    });
  }

  /** The bits of `quantize` alone; for plain options in one pass over the features, without gradient. */
  encode(features_BHWC: Tensor, schedule: ScaleSchedule): Tensor[] {
    return scope(() => {
      const { decayFactor, codebookDim: d, kind, codebookScale, spherical } = this.config;
      if (decayFactor) return this.quantize(features_BHWC, schedule).bits;
      const grids = schedule.map(([, h, w]) => [h, w] as const);
      const magnitude = kind === 'lfq' ? lfqMagnitude(d, { scale: codebookScale, spherical }) : undefined;
      const { labels_BLP } = multiscaleResidual(this.prepare(features_BHWC), grids, { magnitude });
      return splitScales(unpackBits(labels_BLP, d), schedule);
    });
  }

  /**
   * Quantises with straight-through gradients and the loss of every scale kept.
   * @returns tensors of one training step; made on a tape, they are differentiable
   */
  train(features_BHWC: Tensor, schedule: ScaleSchedule, options: QuantizerTrainOptions = {}): QuantizerTrainResult {
    return scope(() => {
      const { sum_BHWd, scales } = this.walk(this.prepare(features_BHWC), schedule, options);
      if (scales.length === 0)
        invalidArgument('dropped', 'at least one scale that stays', options.dropped, 'Protect the last scale.');
      const losses = scales.map(({ z }) => this.scaleLoss(this.penalties(z)));
      return {
        quantized: this.finish(sum_BHWd),
        loss: scale(losses.reduce(add), 1 / losses.length),
        losses,
        kept: scales.map(({ k }) => k),
        bits: scales.map(({ bits }) => bits),
      };
    });
  }

  /** One scale, [..., d]. */
  code(x: Tensor): Quantized {
    const { codebookDim: d, kind, codebookScale, spherical, newQuant = true } = this.config;
    return kind === 'lfq'
      ? lfqQuantize(x, { scale: codebookScale, spherical })
      : bsqQuantize(x, newQuant ? 1 : 1 / Math.sqrt(d));
  }

  /** Penalties on what `code` quantised, [..., d]. @throws InfinityError INVALID_ARGUMENT for LFQ above 16 bits */
  penalties(z: Tensor): Penalties {
    const { kind, codebookScale, spherical, inverseTemperature } = this.config;
    return kind === 'lfq'
      ? lfqPenalties(z, { scale: codebookScale, spherical, inverseTemperature })
      : bsqPenalties(z, inverseTemperature);
  }

  /** Loss of one scale from its penalties, []. */
  scaleLoss({ perSampleEntropy, codebookEntropy, commitment }: Penalties): Tensor {
    const { commitmentWeight = 0.25, entropyWeight = 0.1, zeta = 1, gamma0 = 1, gamma = 1 } = this.config;
    const { kind, inverseTemperature = 100 } = this.config;
    const entropy = sub(scale(perSampleEntropy, gamma0), scale(codebookEntropy, gamma));
    const share = (entropyWeight * zeta) / (kind === 'lfq' ? 1 : inverseTemperature);
    return add(scale(commitment, commitmentWeight), scale(entropy, share));
  }

  private prepare(features_BHWC: Tensor): Tensor {
    let x = features_BHWC;
    if (this.projections) x = linear(x, this.projections.wIn, this.projections.bIn);
    return this.norm ? layerNorm(x, this.norm.w, this.norm.b, LAYER_NORM_EPS) : x;
  }

  private finish(sum_BHWd: Tensor): Tensor {
    return this.projections ? linear(sum_BHWd, this.projections.wOut, this.projections.bOut) : sum_BHWd;
  }

  private walk(
    latent_BHWd: Tensor,
    schedule: ScaleSchedule,
    { dropped, flips, tap }: QuantizerTrainOptions,
  ): { sum_BHWd: Tensor; scales: Scale[] } {
    const { decayFactor = false, removeResidualDetach = false } = this.config;
    const [, H = 0, W = 0] = latent_BHWd.shape;
    if (schedule.length === 0) invalidArgument('schedule', 'at least one scale', schedule);
    const scales: Scale[] = [];
    let residual = latent_BHWd;
    let sum: Tensor | undefined;
    for (const [k, [, h, w]] of schedule.entries()) {
      tap?.(`residual.${k}`, residual);
      if (!dropped?.[k]) {
        const input_Bhwd = resizeArea(residual, [h, w]);
        const { z, codes, bits } = this.code(input_Bhwd);
        for (const [name, value] of Object.entries({ lfq_in: input_Bhwd, bits, codes })) tap?.(`${name}.${k}`, value);
        scales.push({ k, z, bits });
        const draws = flips?.draws[k];
        const sent = flips && draws ? mul(codes, signs(bits, flips.probability, draws, codes.dtype)) : codes;
        const up = resizeLinear(decayFactor ? scale(sent, Math.max(0.1, 1 - 0.1 * k)) : sent, [H, W]);
        // A view is unknown to the tape: the later scales then see the codes as constants.
        residual = sub(residual, removeResidualDetach ? up : up.view(up.shape));
        sum = sum ? add(sum, up) : up;
      }
      if (tap && sum) {
        tap(`cumulative.${k}`, sum);
        const next = schedule[k + 1];
        if (next) tap(`var_input.${k}`, resizeArea(sum, [next[1], next[2]]));
      }
    }
    return { sum_BHWd: sum ?? zerosLike(latent_BHWd), scales };
  }
}

/** -1 where an element is drawn to change sign, else 1. */
function signs(bits: Tensor, probability: number, draws: UniformSource, dtype: DType): Tensor {
  // A code of one channel is +-1, and so is the product of a bit's codes before and after it is inverted.
  const each = (b: Tensor) => reshape(bitsToCodes(reshape(b, [b.size, 1]), dtype === 'f64' ? 'f64' : 'f32'), b.shape);
  return mul(each(bits), each(bitFlip(bits, probability, draws)));
}
