/**
 * The conventional classifier, for comparison at few bits a token: one logit for each of the 2^D codes, so 2^D rows of weights where
 * the bit head has 2D. Source: Infinity, infinity/models/infinity.py (use_bit_label=0).
 */
import { Linear } from '../nn/linear.js';
import type { BitLoss, BitLossOptions } from '../ops/bit_loss.js';
import type { BitSampleOptions } from '../ops/bits.js';
import { indexLoss, indexSample } from '../ops/indices.js';
import { scope, type Tensor } from '../tensor.js';
import { projectionInit } from './block.js';
import { type InfinityConfig, tokenBits } from './config.js';
import { type ChosenBits, Head } from './head.js';

/** One logit a code, [B, L, 2^D]. */
export class SoftmaxHead extends Head {
  readonly drawsPerToken = 1;

  constructor(config: InfinityConfig) {
    super(config, (C) => new Linear(C, 2 ** tokenBits(config), { init: projectionInit(C, 0.02) }));
  }

  override choose(cond: Tensor, uncond: Tensor | null, choice: BitSampleOptions): ChosenBits {
    const { bits, probability } = indexSample(cond, uncond, choice);
    return { bits, seen: { probability, sampled_class: bits } };
  }

  protected override crossEntropy(
    h_BLC: Tensor,
    labels_BLP: Tensor,
    weight_L: Tensor,
    options: BitLossOptions,
  ): BitLoss {
    return scope(() => indexLoss(this.out.forward(h_BLC), labels_BLP, weight_L, options));
  }
}
