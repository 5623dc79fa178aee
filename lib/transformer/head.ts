/**
 * What both classifiers share: the modulated norm before them, their layers, and how tokens are weighed. Source: Infinity,
 * infinity/models/basic.py (AdaLNBeforeHead), trainer.py (loss).
 */
import { Linear } from '../nn/linear.js';
import { Module, type Tap } from '../nn/module.js';
import { AdaLayerNorm, type AdaNorm, AdaRmsNorm } from '../nn/norm.js';
import type { BitLoss } from '../ops/bit_loss.js';
import type { BitSampleOptions } from '../ops/bits.js';
import { silu } from '../ops/elementwise.js';
import { statistic } from '../ops/run.js';
import { reshape, unbind } from '../ops/shape.js';
import { scope, Tensor } from '../tensor.js';
import { type ScaleSchedule, scaleTokens } from '../tokenizer/schedule.js';
import { projectionInit } from './block.js';
import type { InfinityConfig } from './config.js';

export type { BitLoss };

/** Scale and shift of the last norm, each [B, 1, C]. */
export type HeadModulation = readonly [scale: Tensor, shift: Tensor];

/** norm(x)·(1 + scale) + shift with scale and shift from the condition. */
class AdaLNBeforeHead extends Module {
  private readonly ln: AdaNorm;
  private readonly adaLin: Linear;

  constructor({ embed_dim: C, norm_eps: eps, rms_norm }: InfinityConfig) {
    super();
    this.ln = this.child('ln_wo_grad', rms_norm ? new AdaRmsNorm(C, eps) : new AdaLayerNorm(eps));
    this.adaLin = this.child('ada_lin.1', new Linear(C, 2 * C, { init: projectionInit(C, 1e-3) }));
  }

  condition(cond_BC: Tensor): HeadModulation {
    const [B = 1, C = 1] = cond_BC.shape;
    const [scale, shift] = unbind(reshape(this.adaLin.forward(silu(cond_BC)), [B, 1, 2, C]), 2);
    return [scale!, shift!];
  }

  forward(x_BLC: Tensor, [scale, shift]: HeadModulation): Tensor {
    return this.ln.forward(x_BLC, scale, shift);
  }
}

/** How the tokens and bits are weighed. */
export interface BitLossOptions {
  readonly schedule: ScaleSchedule;
  /** Weigh tokens so that the total weight of a scale grows with the square root of its area; otherwise all alike. */
  readonly reweight?: boolean;
  /** Over the bits of a token. */
  readonly reduction?: 'mean' | 'sum';
  /** Default 0. */
  readonly labelSmoothing?: number;
}

/** Weight of every token, summing to 1: 1 / L, or proportional to 1 / √area of its scale. */
export function tokenWeights(schedule: ScaleSchedule, reweight: boolean): Float64Array {
  const weights = schedule.flatMap((scale) => {
    const n = scaleTokens(scale);
    return new Array<number>(n).fill(reweight ? 1 / Math.sqrt(n) : 1);
  });
  const sum = weights.reduce((a, b) => a + b, 0);
  return Float64Array.from(weights, (w) => w / sum);
}

/** Drawn bits, and what an observer may see of the draw. */
export interface ChosenBits {
  /** u8 [B, L, D] */
  readonly bits: Tensor;
  /** By the name that a tap sees it under. */
  readonly seen: Readonly<Record<string, Tensor>>;
}

/** Modulated norm and classifier: [B, L, C] -> logits of the bits of every token, or their loss. */
export abstract class Head<Out extends Linear = Linear> extends Module {
  /** Uniform numbers that the draw of a token takes. */
  abstract readonly drawsPerToken: number;
  private readonly norm: AdaLNBeforeHead;
  private readonly hidden: Linear | null;
  protected readonly out: Out;

  /** @param classifier makes the last layer */
  protected constructor(config: InfinityConfig, classifier: (inputs: number) => Out) {
    super();
    const { embed_dim: C, head_depth } = config;
    this.norm = this.child('head_nm', new AdaLNBeforeHead(config));
    this.hidden = head_depth === 2 ? this.child('head.0', new Linear(C, C, { init: projectionInit(C) })) : null;
    this.out = this.child(head_depth === 2 ? 'head.2' : 'head', classifier(C));
  }

  condition(cond_BC: Tensor): HeadModulation {
    return this.norm.condition(cond_BC);
  }

  /** The classifier's input. @param tap sees `head_nm.output` */
  normalize(x_BLC: Tensor, modulation: HeadModulation, tap?: Tap): Tensor {
    const y_BLC = this.norm.forward(x_BLC, modulation);
    tap?.('head_nm.output', y_BLC);
    return this.hidden ? this.hidden.forward(y_BLC, { gelu: true }) : y_BLC;
  }

  /** Logits [B, L, ...] of what `normalize` returned. */
  classify(h_BLC: Tensor): Tensor {
    return this.out.forward(h_BLC);
  }

  /** Draws from logits of the conditional and, where there are any, the unconditional samples. */
  abstract choose(cond: Tensor, uncond: Tensor | null, choice: BitSampleOptions): ChosenBits;

  /**
   * Cross entropy against packed labels u8 [B, L, ceil(D / 8)] (see `packBits`), the mean over the batch of each picture's weighted tokens, in nats a bit unless
   * `reduction` says otherwise. Metrics: `perToken` and `correct` (bits that the likeliest choice has right), [B · L].
   * @param h_BLC what `normalize` returned
   */
  loss(h_BLC: Tensor, labels_BLP: Tensor, { schedule, reweight = false, ...options }: BitLossOptions): BitLoss {
    const weights = tokenWeights(schedule, reweight);
    const values = this.dtype === 'f64' ? weights : Float32Array.from(weights);
    return scope(() => {
      const weight_L = Tensor.from(values, [values.length], statistic(this), this.device);
      return this.crossEntropy(h_BLC, labels_BLP, weight_L, options);
    });
  }

  protected abstract crossEntropy(
    h_BLC: Tensor,
    labels_BLP: Tensor,
    weight_L: Tensor,
    options: Pick<BitLossOptions, 'reduction' | 'labelSmoothing'>,
  ): BitLoss;
}
