/**
 * The infinite-vocabulary classifier: two logits for each bit of a token, at 2j for bit j being 0 and 2j + 1 for it being 1.
 * Source: Infinity, infinity/models/infinity.py, trainer.py (loss).
 */
import { Linear } from '../nn/linear.js';
import type { WeightFormat } from '../nn/module.js';
import { type BitHeadSampleOptions, bitHeadSample, type DrawnBits } from '../ops/bit_head.js';
import { type BitLoss, type BitLossOptions, bitCrossEntropy, foldBitHead } from '../ops/bit_loss.js';
import { type BitSampleOptions, bitSample } from '../ops/bits.js';
import { unpackedWeight } from '../ops/packed.js';
import { cast } from '../ops/shape.js';
import { scope, type Tensor } from '../tensor.js';
import { projectionInit } from './block.js';
import { type InfinityConfig, tokenBits } from './config.js';
import { type ChosenBits, Head } from './head.js';

/** The classifier. On a card a frozen one keeps, beside its two rows a bit, their difference: all that drawing needs. */
class Classifier extends Linear {
  private folded: { readonly head: Tensor; readonly bias: Tensor | null } | undefined;

  /** One row a bit, and its bias: the classifier's own when frozen, else new tensors. */
  fold(): { readonly head: Tensor; readonly bias: Tensor | null } {
    if (this.folded) return this.folded;
    const { weight, bias } = this.operands;
    return scope(() => ({ head: cast(foldBitHead(weight), this.dtype), bias: bias && foldBitHead(bias) }));
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

/** Two logits a bit, [B, L, 2D]. */
export class BitHead extends Head<Classifier> {
  readonly drawsPerToken: number;

  constructor(config: InfinityConfig) {
    const D = tokenBits(config);
    super(config, (C) => new Classifier(C, 2 * D, { init: projectionInit(C, 0.02) }));
    this.drawsPerToken = D;
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

  override choose(cond: Tensor, uncond: Tensor | null, choice: BitSampleOptions): ChosenBits {
    const { bits, prob0 } = bitSample(cond, uncond, choice);
    return { bits, seen: { prob_of_0: prob0, sampled_class: bits } };
  }

  /** The logits themselves are never made. */
  protected override crossEntropy(
    h_BLC: Tensor,
    labels_BLP: Tensor,
    weight_L: Tensor,
    options: BitLossOptions,
  ): BitLoss {
    const { weight, bias } = this.out.operands;
    return bitCrossEntropy(h_BLC, weight, bias, labels_BLP, weight_L, options);
  }
}
