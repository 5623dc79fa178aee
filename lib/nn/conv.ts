/** Convolution layers on channels-last pictures; weights in the official [out, in, rows, columns] order. */
import {
  conv2d,
  conv2dStats,
  type Measured,
  type NormAhead,
  type PackedConv,
  type Padding,
  packConv,
  packUpsampleConv,
  upsampleConv2d,
  upsampleConv2dStats,
} from '../ops/conv.js';
import { cast } from '../ops/shape.js';
import type { Tensor } from '../tensor.js';
import { type Init, uniform } from './init.js';
import { Module, type WeightFormat } from './module.js';

/** Shape of a convolution; the padding follows from it unless it is given. */
export interface Conv2dOptions {
  readonly kernel: 1 | 3 | 4;
  /** 2 is the official down-sampling convolution, which pads one zero row below and one zero column right only. */
  readonly stride?: 1 | 2;
  readonly padding?: Padding;
  /** true by default. */
  readonly bias?: boolean;
  /** Initial weights; PyTorch's by default. */
  readonly init?: Init;
}

/** What a call of a convolution may say. */
export interface PassOfConv {
  readonly padding?: Padding;
  readonly residual?: Tensor | undefined;
}

/** Plain 2-D convolution, "same" size at stride 1 for odd kernels. x_BHWC -> y_BHWC. */
export class Conv2d extends Module {
  private readonly weight: Tensor;
  private readonly bias: Tensor | undefined;
  private readonly stride: 1 | 2;
  private readonly padding: Padding;
  private packed: PackedConv | undefined;

  constructor(inChannels: number, outChannels: number, options: Conv2dOptions) {
    super();
    const { kernel, stride = 1, bias = true } = options;
    // PyTorch's default: uniform in ±1/√fan-in, for weight and bias alike.
    const bound = 1 / Math.sqrt(inChannels * kernel * kernel);
    this.weight = this.parameter('weight', [outChannels, inChannels, kernel, kernel], options.init ?? uniform(bound));
    this.bias = bias ? this.parameter('bias', [outChannels], uniform(bound)) : undefined;
    this.stride = stride;
    const implied = kernel === 1 ? 0 : stride === 2 ? { top: 0, left: 0, bottom: 1, right: 1 } : 1;
    this.padding = options.padding ?? implied;
  }

  /**
   * @param options.padding of a part of a picture, whose neighbours stand in for the zeros on some sides
   * @param options.residual is added to the result
   */
  forward(x_BHWC: Tensor, { padding = this.padding, residual }: PassOfConv = {}): Tensor {
    return conv2d(x_BHWC, this.operand, this.bias, { stride: this.stride, padding, residual });
  }

  /** `forward`, measured for the norm that follows. */
  measured(x_BHWC: Tensor, norm: NormAhead, residual?: Tensor): Measured {
    const { stride, padding } = this;
    return conv2dStats(x_BHWC, this.operand, this.bias, norm, { stride, padding, residual });
  }

  private get operand(): Tensor | PackedConv {
    return this.packed ?? cast(this.weight, this.dtype);
  }

  protected override pack(format: WeightFormat): void {
    this.packed = this.keep(packConv(this.weight, { dtype: format }));
    this.weight.dispose();
  }
}

/** Nearest ×2, then a 3×3 convolution, computed as four 2×2 convolutions. x_BHWC -> y_B(2H)(2W)C. */
export class UpsampleConv2d extends Module {
  private readonly weight: Tensor;
  private readonly bias: Tensor;
  private packed: PackedConv | undefined;

  constructor(channels: number) {
    super();
    const bound = 1 / Math.sqrt(channels * 9);
    this.weight = this.parameter('weight', [channels, channels, 3, 3], uniform(bound));
    this.bias = this.parameter('bias', [channels], uniform(bound));
  }

  forward(x_BHWC: Tensor): Tensor {
    return upsampleConv2d(x_BHWC, this.operand, this.bias);
  }

  /** `forward`, measured for the norm that follows. */
  measured(x_BHWC: Tensor, norm: NormAhead): Measured {
    return upsampleConv2dStats(x_BHWC, this.operand, this.bias, norm);
  }

  private get operand(): Tensor | PackedConv {
    return this.packed ?? cast(this.weight, this.dtype);
  }

  protected override pack(format: WeightFormat): void {
    this.packed = this.keep(packUpsampleConv(this.weight, { dtype: format }));
    this.weight.dispose();
  }
}
