/**
 * Normalisation over the last axis: plain, root-mean-square, and modulated (AdaLN), with statistics per row; and over a batch. Norms
 * that products may carry out tell their scale and shift as f32 [1 or B, 2, C] (`affine`).
 */
import { add, addScalar, mul } from '../ops/elementwise.js';
import { adaNorm, groupNorm, layerNorm, rmsNorm } from '../ops/norm.js';
import { cat, fill, reshape } from '../ops/shape.js';
import type { Tensor } from '../tensor.js';
import { ones, zeros } from './init.js';
import { Module } from './module.js';

/** x / rms(x) · weight, without mean or bias. */
export class RmsNorm extends Module {
  readonly centred = false;
  private readonly weight: Tensor;
  constructor(
    private readonly width: number,
    readonly eps: number,
  ) {
    super();
    this.weight = this.parameter('weight', [width], ones);
  }
  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, this.eps);
  }
  affine(): Tensor {
    return rows(this.weight, fill([this.width], 0, 'f32', this.device));
  }
}

/** (x − mean) / √(variance + eps) · weight + bias. */
export class LayerNorm extends Module {
  readonly centred = true;
  private readonly weight: Tensor;
  private readonly bias: Tensor;
  constructor(
    width: number,
    readonly eps: number,
  ) {
    super();
    this.weight = this.parameter('weight', [width], ones);
    this.bias = this.parameter('bias', [width], zeros);
  }
  forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight, this.bias, this.eps);
  }
  affine(): Tensor {
    return rows(this.weight, this.bias);
  }
}

/** Two rows [C] as one pair. */
function rows(scale: Tensor, shift: Tensor): Tensor {
  return reshape(cat([scale, shift], 0), [1, 2, scale.size]);
}

/** Batch normalisation of pictures by the statistics of the batch at hand, always: no running ones are kept. x_BHWC -> y_BHWC. */
export class BatchNorm extends Module {
  private readonly weight: Tensor;
  private readonly bias: Tensor;
  constructor(
    private readonly channels: number,
    private readonly eps: number,
  ) {
    super();
    this.weight = this.parameter('weight', [channels], ones);
    this.bias = this.parameter('bias', [channels], zeros);
  }
  forward(x_BHWC: Tensor): Tensor {
    // The pixels of all pictures are one picture whose channels are groups of their own.
    const { channels } = this;
    const pixels = reshape(x_BHWC, [1, x_BHWC.size / channels, 1, channels]);
    return reshape(groupNorm(pixels, this.weight, this.bias, channels, this.eps), x_BHWC.shape);
  }
}

/** Adaptive layer norm, norm(x)·(1 + scale) + shift: without parameters of its own. */
export class AdaLayerNorm extends Module {
  readonly centred = true;
  constructor(readonly eps: number) {
    super();
  }
  /** x_BLC with scale and shift [B, 1, C]. */
  forward(x_BLC: Tensor, scale_B1C: Tensor, shift_B1C: Tensor): Tensor {
    return adaNorm(x_BLC, scale_B1C, shift_B1C, this.eps);
  }
  /** @param modulation [..., 2, C]: 1 + scale, and shift */
  affine(modulation: Tensor): Tensor {
    return modulation;
  }
}

/** The same around an RMS norm; the reference keeps its constant weight among the buffers. */
export class AdaRmsNorm extends Module {
  readonly centred = false;
  private readonly weight: Tensor;
  constructor(
    private readonly width: number,
    readonly eps: number,
  ) {
    super();
    this.weight = this.buffer('weight', [width], ones);
  }
  forward(x_BLC: Tensor, scale_B1C: Tensor, shift_B1C: Tensor): Tensor {
    return add(mul(rmsNorm(x_BLC, this.weight, this.eps), addScalar(scale_B1C, 1)), shift_B1C);
  }
  /** As that of AdaLayerNorm. */
  affine(modulation: Tensor): Tensor {
    return mul(modulation, rows(this.weight, fill([this.width], 1, 'f32', this.device)));
  }
}

export type Norm = LayerNorm | RmsNorm;
export type AdaNorm = AdaLayerNorm | AdaRmsNorm;
