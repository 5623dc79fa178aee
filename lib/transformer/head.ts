/**
 * The infinite-vocabulary classifier: two logits for each bit of a token, at 2j for bit j being 0 and 2j + 1 for it being 1.
 * Source: Infinity, infinity/models/basic.py (AdaLNBeforeHead), infinity/models/infinity.py, trainer.py (loss).
 */
import { Linear } from '../nn/linear.js';
import { Module, type Tap, type WeightFormat } from '../nn/module.js';
import { AdaLayerNorm, type AdaNorm, AdaRmsNorm } from '../nn/norm.js';
import { type BitHeadSampleOptions, bitHeadSample, type DrawnBits } from '../ops/bit_head.js';
import { type BitLoss, bitCrossEntropy, foldBitHead } from '../ops/bit_loss.js';
import { silu } from '../ops/elementwise.js';
import { unpackedWeight } from '../ops/packed.js';
import { reshape, unbind } from '../ops/shape.js';
import { scope, Tensor } from '../tensor.js';
import { type ScaleSchedule, scaleTokens } from '../tokenizer/schedule.js';
import { projectionInit } from './block.js';
import { type InfinityConfig, tokenBits } from './config.js';

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

/** The classifier. On a card a frozen one keeps, beside its two rows a bit, their difference: all that drawing needs. */
class Classifier extends Linear {
  private folded: { readonly head: Tensor; readonly bias: Tensor | null } | undefined;

  /** One row a bit, and its bias: the classifier's own when frozen, else new tensors. */
  fold(): { readonly head: Tensor; readonly bias: Tensor | null } {
    if (this.folded) return this.folded;
    const { weight, bias } = this.operands;
    return { head: foldBitHead(weight), bias: bias && foldBitHead(bias) };
  }

  protected override pack(format: WeightFormat): void {
    if (this.device.kind === 'cuda') {
      const { head, bias } = this.fold();
      this.folded = { head: this.keep(unpackedWeight(head, format)), bias: bias && this.keep(bias) };
      head.dispose();
    }
    super.pack(format);
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

/** Modulated norm and classifier: [B, L, C] -> two logits a bit, or their loss. */
export class BitHead extends Module {
  private readonly norm: AdaLNBeforeHead;
  private readonly hidden: Linear | null;
  private readonly out: Classifier;

  constructor(config: InfinityConfig) {
    super();
    const { embed_dim: C, head_depth } = config;
    this.norm = this.child('head_nm', new AdaLNBeforeHead(config));
    this.hidden = head_depth === 2 ? this.child('head.0', new Linear(C, C, { init: projectionInit(C) })) : null;
    const init = projectionInit(C, 0.02);
    this.out = this.child(head_depth === 2 ? 'head.2' : 'head', new Classifier(C, 2 * tokenBits(config), { init }));
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

  /** Logits [B, L, 2D] of what `normalize` returned. */
  classify(h_BLC: Tensor): Tensor {
    return this.out.forward(h_BLC);
  }

  /**
   * Whether `sample` is the way to draw: on a card, where it leaves out the logits. On the processor bits come from `classify`,
   * as in the reference: a draw within rounding of its probability may fall on the other side without them.
   */
  get samples(): boolean {
    return this.device.kind === 'cuda';
  }

  /** Draws the bits of what `normalize` returned, in one pass. */
  sample(h_RLC: Tensor, options: BitHeadSampleOptions): DrawnBits {
    return scope(() => {
      const { head, bias } = this.out.fold();
      return bitHeadSample(h_RLC, head, bias, options);
    });
  }

  /**
   * Cross entropy of every bit against `bits` u8 [B, L, D], the mean over the batch of each picture's weighted tokens; the
   * logits themselves are never made. Metrics: `perToken` and `correct` (bits that the larger logit predicts), [B · L].
   * @param h_BLC what `normalize` returned
   */
  loss(h_BLC: Tensor, bits: Tensor, { schedule, reweight = false, ...options }: BitLossOptions): BitLoss {
    const weights = tokenWeights(schedule, reweight);
    const values = this.dtype === 'f64' ? weights : Float32Array.from(weights);
    const { weight, bias } = this.out.operands;
    return scope(() => {
      const weight_L = Tensor.from(values, [values.length], this.dtype, this.device);
      return bitCrossEntropy(h_BLC, weight, bias, bits, weight_L, options);
    });
  }
}
