/**
 * Building blocks of the visual tokenizer. Pictures are channels-last; parameter names are the official ones, in which every
 * wrapped layer adds a `.conv` or `.norm`. Source: Infinity, infinity/models/bsq_vae/flux_vqgan.py.
 */
import { InfinityError } from '../errors.js';
import { Conv2d, type Conv2dOptions, type PassOfConv, UpsampleConv2d } from '../nn/conv.js';
import { ones, zeros } from '../nn/init.js';
import { Module } from '../nn/module.js';
import { attention } from '../ops/attention.js';
import type { Measured, NormAhead } from '../ops/conv.js';
import { groupNorm, groupNormApply, groupNormStats } from '../ops/norm.js';
import { reshape, writeSlice } from '../ops/shape.js';
import { checkpoint } from '../tape.js';
import { scope, type Tensor } from '../tensor.js';
import { bandPadding, bandsOf, fillBands, pictureLike, readable, rowsOf } from './bands.js';

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

/** How a pass through the network is made. */
export interface PassOptions {
  /** Residual blocks are computed again in the backward pass: less memory, a third more work. */
  readonly checkpointing?: boolean;
}

/** A layer between pictures whose statistics are taken where they are made. */
export interface Layer {
  /** The norm that the layer's input meets first. */
  readonly enters?: Normalize;
  /** @param next the norm that the result meets */
  measured(x_BHWC: Measured, next?: Normalize): Measured;
}

/** A convolution under the official wrapper's name. */
export class Conv extends Module implements Layer {
  private readonly conv: Conv2d;
  constructor(inChannels: number, outChannels: number, options: Conv2dOptions) {
    super();
    this.conv = this.child('conv', new Conv2d(inChannels, outChannels, options));
  }
  forward(x_BHWC: Tensor, options?: PassOfConv): Tensor {
    return this.conv.forward(x_BHWC, options);
  }
  /** @param residual is added to the result */
  measured({ picture }: Measured, next?: Normalize, residual?: Tensor): Measured {
    return next
      ? this.conv.measured(picture, next.ahead, residual)
      : { picture: this.conv.forward(picture, { residual }) };
  }
}

class GroupNorm extends Module {
  private readonly weight: Tensor;
  private readonly bias: Tensor;
  constructor(
    channels: number,
    readonly groups: number,
  ) {
    super();
    this.weight = this.parameter('weight', [channels], ones);
    this.bias = this.parameter('bias', [channels], zeros);
  }
  forward(x_BHWC: Tensor, silu: boolean): Tensor {
    return groupNorm(x_BHWC, this.weight, this.bias, this.groups, NORM_EPS, { silu });
  }
  stats(x_BHWC: Tensor): Tensor {
    return groupNormStats(x_BHWC, this.groups, NORM_EPS);
  }
  apply(x_BHWC: Tensor, stats: Tensor, silu: boolean): Tensor {
    return groupNormApply(x_BHWC, stats, this.weight, this.bias, { silu });
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
  /** @param measured.stats taken by whoever made the picture; without them the norm takes its own */
  swish({ picture, stats }: Measured): Tensor {
    return stats ? this.norm.apply(picture, stats, true) : this.norm.forward(picture, true);
  }
  /** What a convolution needs to know to take this norm's statistics. */
  get ahead(): NormAhead {
    return { groups: this.norm.groups, eps: NORM_EPS };
  }
  /** What `swish` of any rows of a picture needs to know of the whole. */
  stats(x_BHWC: Tensor): Tensor {
    return this.norm.stats(x_BHWC);
  }
}

/** conv(swish(norm(x))) of one picture, a 3 × 3 convolution, in bands; `residual` gives what is added to rows [begin, end). */
export function convOfNormInBands(
  { norm, conv }: { readonly norm: Normalize; readonly conv: Conv },
  x_1HWC: Tensor,
  into: Tensor,
  bandBytes: number,
  residual?: (begin: number, end: number) => Tensor,
): Tensor {
  return scope(() => {
    const stats = norm.stats(x_1HWC);
    const widest = Math.max(x_1HWC.shape[3]!, into.shape[3]!);
    return fillBands(into, widest, bandBytes, (band) => {
      const n = norm.swish({ picture: readable(x_1HWC, band), stats });
      return conv.forward(n, { padding: bandPadding(band), residual: residual?.(band.begin, band.end) });
    });
  });
}

/** x + conv(swish(norm(conv(swish(norm(x)))))), with a 1×1 convolution beside it where the width changes. */
export class ResnetBlock extends Module implements Layer {
  private readonly norm1: Normalize;
  private readonly conv1: Conv;
  private readonly norm2: Normalize;
  private readonly conv2: Conv;
  private readonly ninShortcut: Conv | undefined;

  constructor(
    inChannels: number,
    private readonly outChannels: number,
    groups?: number,
  ) {
    super();
    this.norm1 = this.child('norm1', new Normalize(inChannels, groups));
    this.conv1 = this.child('conv1', new Conv(inChannels, outChannels, { kernel: 3 }));
    this.norm2 = this.child('norm2', new Normalize(outChannels, groups));
    this.conv2 = this.child('conv2', new Conv(outChannels, outChannels, { kernel: 3 }));
    if (inChannels !== outChannels)
      this.ninShortcut = this.child('nin_shortcut', new Conv(inChannels, outChannels, { kernel: 1 }));
  }

  get enters(): Normalize {
    return this.norm1;
  }

  forward(x_BHWC: Tensor): Tensor {
    return this.measured({ picture: x_BHWC }).picture;
  }

  measured(x_BHWC: Measured, next?: Normalize): Measured {
    const h_BHWC = this.conv1.measured({ picture: this.norm1.swish(x_BHWC) }, this.norm2);
    const beside = this.ninShortcut ? this.ninShortcut.forward(x_BHWC.picture) : x_BHWC.picture;
    return this.conv2.measured({ picture: this.norm2.swish(h_BHWC) }, next, beside);
  }

  /** `forward` of one picture in bands, with three pictures in memory at most. Uses x up: where the width stays, the result lies there. */
  forwardInBands(x_1HWC: Tensor, bandBytes: number): Tensor {
    const [, H = 1, W = 1] = x_1HWC.shape;
    const shortcut = this.ninShortcut;
    const like = (channels: number) => pictureLike(x_1HWC, H, W, channels);
    return scope(() => {
      const h = convOfNormInBands({ norm: this.norm1, conv: this.conv1 }, x_1HWC, like(this.outChannels), bandBytes);
      const last = { norm: this.norm2, conv: this.conv2 };
      const into = shortcut ? like(this.outChannels) : x_1HWC;
      return convOfNormInBands(last, h, into, bandBytes, (begin, end) => {
        const x = rowsOf(x_1HWC, begin, end);
        return shortcut ? shortcut.forward(x) : x;
      });
    });
  }
}

/** `block.forward` whose intermediates are not kept for the backward pass but computed again in it. Changes no bit. */
export function recomputed(block: ResnetBlock, x_BHWC: Tensor): Tensor {
  const parameters = [...block.namedParameters()].map(([, parameter]) => parameter);
  return checkpoint((x) => block.forward(x), [x_BHWC], parameters);
}

/** Halves both extents: one zero column right, one zero row below, then 3×3 with stride 2. */
export class Downsample extends Module implements Layer {
  private readonly conv: Conv;
  constructor(channels: number) {
    super();
    this.conv = this.child('conv', new Conv(channels, channels, { kernel: 3, stride: 2 }));
  }
  forward(x_BHWC: Tensor): Tensor {
    return this.conv.forward(x_BHWC);
  }
  measured(x_BHWC: Measured, next?: Normalize): Measured {
    return this.conv.measured(x_BHWC, next);
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
  measured(x_BHWC: Tensor, norm: NormAhead): Measured {
    return this.conv.measured(x_BHWC, norm);
  }
}

/** Doubles both extents: nearest, then 3×3. */
export class Upsample extends Module implements Layer {
  private readonly conv: WrappedUpsampleConv;
  constructor(channels: number) {
    super();
    this.conv = this.child('conv', new WrappedUpsampleConv(channels));
  }
  forward(x_BHWC: Tensor): Tensor {
    return this.conv.forward(x_BHWC);
  }
  measured({ picture }: Measured, next?: Normalize): Measured {
    return next ? this.conv.measured(picture, next.ahead) : { picture: this.forward(picture) };
  }

  /** `forward` of one picture in bands: of rows of x with their neighbours, of which the results are dropped. */
  forwardInBands(x_1HWC: Tensor, bandBytes: number): Tensor {
    const [, H = 1, W = 1, C = 1] = x_1HWC.shape;
    const into = pictureLike(x_1HWC, 2 * H, 2 * W, C);
    scope(() => {
      for (const band of bandsOf(H, 4 * W * C * 4, bandBytes))
        scope(() => {
          const y = this.forward(readable(x_1HWC, band));
          writeSlice(into, rowsOf(y, 2 * band.above, 2 * (band.above + band.end - band.begin)), 1, 2 * band.begin);
        });
    });
    return into;
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
    return this.projOut.forward(reshape(o_BLC, [B, H, W, C]), { residual: x_BHWC });
  }
}
