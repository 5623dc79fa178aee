/**
 * Building blocks of the visual tokenizer. Pictures are channels-last; parameter names are the official ones, in which every
 * wrapped layer adds a `.conv` or `.norm`. Source: Infinity, infinity/models/bsq_vae/flux_vqgan.py.
 */
import { InfinityError } from '../errors.js';
import { Conv2d, type Conv2dOptions, UpsampleConv2d } from '../nn/conv.js';
import { ones, zeros } from '../nn/init.js';
import { Module } from '../nn/module.js';
import { attention } from '../ops/attention.js';
import { add } from '../ops/elementwise.js';
import { groupNorm } from '../ops/norm.js';
import { reshape } from '../ops/shape.js';
import type { Tensor } from '../tensor.js';

const NORM_EPS = 1e-6;

/** The official rule: 32 groups, or 24 where the width is a multiple of 24 only. */
export function defaultNormGroups(channels: number): number {
  if (channels % 32 === 0) return 32;
  if (channels % 24 === 0) return 24;
  throw new InfinityError(
    'INVALID_ARGUMENT',
    `Expected a multiple of 32 or 24 for the channels of a normalised layer but received ${channels}.`,
    { value: channels, cure: 'Choose base_ch and ch_mult accordingly, or set norm_groups.' },
  );
}

/** A convolution under the official wrapper's name. */
export class Conv extends Module {
  private readonly conv: Conv2d;
  constructor(inChannels: number, outChannels: number, options: Conv2dOptions) {
    super();
    this.conv = this.child('conv', new Conv2d(inChannels, outChannels, options));
  }
  forward(x_BHWC: Tensor): Tensor {
    return this.conv.forward(x_BHWC);
  }
}

class GroupNorm extends Module {
  private readonly weight: Tensor;
  private readonly bias: Tensor;
  constructor(
    channels: number,
    private readonly groups: number,
  ) {
    super();
    this.weight = this.parameter('weight', [channels], ones);
    this.bias = this.parameter('bias', [channels], zeros);
  }
  forward(x_BHWC: Tensor, silu: boolean): Tensor {
    return groupNorm(x_BHWC, this.weight, this.bias, this.groups, NORM_EPS, { silu });
  }
}

/** GroupNorm with eps 1e-6; `swish` fuses the activation that follows it nearly everywhere. */
export class Normalize extends Module {
  private readonly norm: GroupNorm;
  constructor(channels: number, groups = defaultNormGroups(channels)) {
    super();
    this.norm = this.child('norm', new GroupNorm(channels, groups));
  }
  forward(x_BHWC: Tensor): Tensor {
    return this.norm.forward(x_BHWC, false);
  }
  swish(x_BHWC: Tensor): Tensor {
    return this.norm.forward(x_BHWC, true);
  }
}

/** x + conv(swish(norm(conv(swish(norm(x)))))), with a 1×1 convolution beside it where the width changes. */
export class ResnetBlock extends Module {
  private readonly norm1: Normalize;
  private readonly conv1: Conv;
  private readonly norm2: Normalize;
  private readonly conv2: Conv;
  private readonly ninShortcut: Conv | undefined;

  constructor(inChannels: number, outChannels: number, groups?: number) {
    super();
    this.norm1 = this.child('norm1', new Normalize(inChannels, groups));
    this.conv1 = this.child('conv1', new Conv(inChannels, outChannels, { kernel: 3 }));
    this.norm2 = this.child('norm2', new Normalize(outChannels, groups));
    this.conv2 = this.child('conv2', new Conv(outChannels, outChannels, { kernel: 3 }));
    if (inChannels !== outChannels)
      this.ninShortcut = this.child('nin_shortcut', new Conv(inChannels, outChannels, { kernel: 1 }));
  }

  forward(x_BHWC: Tensor): Tensor {
    const h_BHWC = this.conv1.forward(this.norm1.swish(x_BHWC));
    const y_BHWC = this.conv2.forward(this.norm2.swish(h_BHWC));
    return add(y_BHWC, this.ninShortcut ? this.ninShortcut.forward(x_BHWC) : x_BHWC);
  }
}

/** Halves both extents: one zero column right, one zero row below, then 3×3 with stride 2. */
export class Downsample extends Module {
  private readonly conv: Conv;
  constructor(channels: number) {
    super();
    this.conv = this.child('conv', new Conv(channels, channels, { kernel: 3, stride: 2 }));
  }
  forward(x_BHWC: Tensor): Tensor {
    return this.conv.forward(x_BHWC);
  }
}

class WrappedUpsampleConv extends Module {
  private readonly conv: UpsampleConv2d;
  constructor(channels: number) {
    super();
    this.conv = this.child('conv', new UpsampleConv2d(channels));
  }
  forward(x_BHWC: Tensor): Tensor {
    return this.conv.forward(x_BHWC);
  }
}

/** Doubles both extents: nearest, then 3×3. */
export class Upsample extends Module {
  private readonly conv: WrappedUpsampleConv;
  constructor(channels: number) {
    super();
    this.conv = this.child('conv', new WrappedUpsampleConv(channels));
  }
  forward(x_BHWC: Tensor): Tensor {
    return this.conv.forward(x_BHWC);
  }
}

/** Single-head attention over all positions. No released configuration uses it; other tokenizers of the family do. */
export class AttnBlock extends Module {
  private readonly norm: Normalize;
  private readonly q: Conv;
  private readonly k: Conv;
  private readonly v: Conv;
  private readonly projOut: Conv;

  constructor(private readonly channels: number) {
    super();
    this.norm = this.child('norm', new Normalize(channels));
    this.q = this.child('q', new Conv(channels, channels, { kernel: 1 }));
    this.k = this.child('k', new Conv(channels, channels, { kernel: 1 }));
    this.v = this.child('v', new Conv(channels, channels, { kernel: 1 }));
    this.projOut = this.child('proj_out', new Conv(channels, channels, { kernel: 1 }));
  }

  forward(x_BHWC: Tensor): Tensor {
    const [B, H, W, C] = x_BHWC.shape as [number, number, number, number];
    const h_BHWC = this.norm.forward(x_BHWC);
    const rows = (conv: Conv): Tensor => reshape(conv.forward(h_BHWC), [B, H * W, C]);
    const o_BLC = attention(rows(this.q), rows(this.k), rows(this.v), {
      heads: 1,
      scale: 1 / Math.sqrt(this.channels),
    });
    return add(x_BHWC, this.projOut.forward(reshape(o_BLC, [B, H, W, C])));
  }
}
