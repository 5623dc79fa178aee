/**
 * What the visual tokenizer is trained to make small. Sources: BitVAE, bitvae/models/d_vae.py and bitvae/modules/loss.py;
 * VQGAN (taming-transformers), whose adversarial recipe it follows.
 */
import { add, scale } from '../ops/elementwise.js';
import { l1Loss, l2Loss } from '../ops/loss.js';
import { mean } from '../ops/reduce.js';
import type { Tensor } from '../tensor.js';
import type { Autoencoder } from '../tokenizer/autoencoder.js';
import type { PassOptions } from '../tokenizer/blocks.js';
import type { MultiScaleQuantizer, QuantizerTrainOptions, QuantizerTrainResult } from '../tokenizer/quantizer.js';
import type { ScaleSchedule } from '../tokenizer/schedule.js';

/** Weights of the terms. */
export interface TokenizerLossWeights {
  readonly l1: number;
  readonly l2: number;
  readonly quantizer: number;
  /** Of the residual that the last scale leaves; 0, as published, when it is left out. */
  readonly residual?: number;
  readonly perceptual?: number;
  readonly adversarial?: number;
}

/** Networks that take part in a step. */
export interface TokenizerParts {
  readonly autoencoder: Autoencoder;
  readonly quantizer: MultiScaleQuantizer;
  /** Distance of a picture from the original, [B, H, W, 3] twice -> []. */
  readonly perceptual?: { distance(image: Tensor, original: Tensor): Tensor } | undefined;
  /** Scores of patches, large where they look real. Its own weights are no part of this loss. */
  readonly discriminator?: { forward(image: Tensor): Tensor } | undefined;
}

/** Terms before their weights, each []. */
export interface TokenizerTerms {
  readonly l1: Tensor;
  readonly l2: Tensor;
  readonly quantizer: Tensor;
  /** Mean squared difference between features and the sum of their codes, which is a constant here. */
  readonly residual: Tensor;
  readonly perceptual?: Tensor;
  readonly adversarial?: Tensor;
}

/** One forward pass and its loss. */
export interface TokenizerLosses extends Pick<QuantizerTrainResult, 'quantized' | 'losses' | 'kept'> {
  readonly features: Tensor;
  /** The reconstruction as the decoder leaves it, not clamped. */
  readonly image: Tensor;
  readonly terms: TokenizerTerms;
  /** Weighted sum of the terms, []. */
  readonly total: Tensor;
}

/**
 * Encodes, quantises, decodes and compares. Made on a tape, `total` is differentiable.
 * @param image_BHWC pictures in [-1, 1]
 * @param options `tap` sees the features before they are quantised ("features") and what the quantiser shows
 */
export function tokenizerLosses(
  parts: TokenizerParts,
  weights: TokenizerLossWeights,
  image_BHWC: Tensor,
  schedule: ScaleSchedule,
  options: QuantizerTrainOptions & PassOptions = {},
): TokenizerLosses {
  const { autoencoder, quantizer, perceptual, discriminator } = parts;
  const features = autoencoder.encode(image_BHWC, undefined, options);
  options.tap?.('features', features);
  const { quantized, loss, losses, kept } = quantizer.train(features, schedule, options);
  const image = autoencoder.decodeUnclamped(quantized, undefined, options);
  const terms: TokenizerTerms = {
    l1: l1Loss(image, image_BHWC),
    l2: l2Loss(image, image_BHWC),
    quantizer: loss,
    // A view is unknown to the tape: the sum is a constant here.
    residual: l2Loss(features, quantized.view(quantized.shape)),
    ...(perceptual ? { perceptual: perceptual.distance(image, image_BHWC) } : {}),
    ...(discriminator ? { adversarial: scale(mean(discriminator.forward(image)), -1) } : {}),
  };
  const weighted = [scale(terms.l1, weights.l1), scale(terms.l2, weights.l2), scale(loss, weights.quantizer)];
  for (const name of ['residual', 'perceptual', 'adversarial'] as const) {
    const [term, weight] = [terms[name], weights[name]];
    if (term && weight) weighted.push(scale(term, weight));
  }
  return { features, quantized, losses, kept, image, terms, total: weighted.reduce(add) };
}
