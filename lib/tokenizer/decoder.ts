/** Sum of codes to picture. Source: Infinity, infinity/models/bsq_vae/flux_vqgan.py, Decoder. */
import { Module, type Tap } from '../nn/module.js';
import { statistic } from '../ops/run.js';
import { cast } from '../ops/shape.js';
import { dtypeBytes, scope, type Tensor } from '../tensor.js';
import { BAND_BYTES, pictureLike } from './bands.js';
import { Conv, convOfNormInBands, Normalize, type PassOptions, ResnetBlock, Upsample } from './blocks.js';
import type { AutoencoderConfig } from './config.js';
import { type Layers, throughLayers } from './layers.js';

interface Level {
  readonly index: number;
  readonly blocks: readonly ResnetBlock[];
  readonly upsample: Upsample | undefined;
}

/** The encoder's mirror image, with one residual block more at each level. */
export class Decoder extends Module {
  private readonly convIn: Conv;
  private readonly mid: readonly [ResnetBlock, ResnetBlock];
  /** In the order of execution: the highest level first. */
  private readonly up: readonly Level[];
  private readonly normOut: Normalize;
  private readonly convOut: Conv;

  constructor(private readonly config: AutoencoderConfig) {
    super();
    const { base_ch, decoder_ch_mult, num_res_blocks, codebook_dim, patch_size, norm_groups: groups } = config;
    const levels = decoder_ch_mult.length;
    let channels = base_ch * decoder_ch_mult[levels - 1]!;
    this.convIn = this.child('conv_in', new Conv(codebook_dim, channels, { kernel: 3 }));
    this.mid = [
      this.child('mid.block_1', new ResnetBlock(channels, channels, groups)),
      this.child('mid.block_2', new ResnetBlock(channels, channels, groups)),
    ];
    const doublings = Math.log2(patch_size);
    const up: Level[] = [];
    for (let index = levels - 1; index >= 0; index--) {
      const width = base_ch * decoder_ch_mult[index]!;
      // One block more than the encoder has at each level.
      const blocks = Array.from({ length: num_res_blocks + 1 }, (_, j) => {
        const block = this.child(`up.${index}.block.${j}`, new ResnetBlock(channels, width, groups));
        channels = width;
        return block;
      });
      const doubles = index >= 1 && index <= doublings;
      up.push({
        index,
        blocks,
        upsample: doubles ? this.child(`up.${index}.upsample`, new Upsample(width)) : undefined,
      });
    }
    this.up = up;
    this.normOut = this.child('norm_out', new Normalize(channels, groups));
    this.convOut = this.child('conv_out', new Conv(channels, 3, { kernel: 3 }));
  }

  /** codes_BhwD -> image_BHWC, not clamped. */
  forward(codes_BHWD: Tensor, tap?: Tap, options?: PassOptions): Tensor {
    return scope(() => {
      const h_BHWC = throughLayers(this.layers(), cast(codes_BHWD, this.dtype), this.normOut, tap, options);
      tap?.('norm_out', this.normOut.forward(h_BHWC.picture));
      const image_BHWC = cast(this.convOut.forward(this.normOut.swish(h_BHWC)), statistic(this));
      tap?.('conv_out', image_BHWC);
      return image_BHWC;
    });
  }

  private layers(): Layers {
    const levels = this.up.flatMap(
      ({ index, blocks, upsample }): Layers => [
        ...blocks.map((block, j) => [`up.${index}.block.${j}`, block] as const),
        ...(upsample ? [[`up.${index}.upsample`, upsample] as const] : []),
      ],
    );
    const mid = this.mid.map((block, j) => [`mid.block_${j + 1}`, block] as const);
    return [['conv_in', this.convIn], ...mid, ...levels];
  }

  /**
   * `forward` of one picture in bands of rows: the same picture, with less than half the memory for activations. Not differentiable.
   * codes_1hwD -> image_1HWC, not clamped.
   * @param bandBytes what an activation of one band may take, about
   */
  forwardInBands(codes_1HWD: Tensor, bandBytes = BAND_BYTES): Tensor {
    const next = (x: Tensor, fn: (x: Tensor) => Tensor): Tensor => {
      const y = scope(() => fn(x));
      if (y !== x) x.dispose();
      return y;
    };
    return scope(() => {
      let h_1HWC = this.convIn.forward(cast(codes_1HWD, this.dtype));
      for (const block of this.mid) h_1HWC = next(h_1HWC, (x) => block.forwardInBands(x, bandBytes));
      for (const { blocks, upsample } of this.up) {
        for (const block of blocks) h_1HWC = next(h_1HWC, (x) => block.forwardInBands(x, bandBytes));
        if (upsample) h_1HWC = next(h_1HWC, (x) => upsample.forwardInBands(x, bandBytes));
      }
      const [, H = 1, W = 1] = h_1HWC.shape;
      const last = { norm: this.normOut, conv: this.convOut };
      return cast(convOfNormInBands(last, h_1HWC, pictureLike(h_1HWC, H, W, 3), bandBytes), statistic(this));
    });
  }

  /** Bytes of the activations that `forward` holds at once at most, for one picture of `height` × `width` pixels. */
  wholeBytes(height: number, width: number): number {
    const { base_ch, decoder_ch_mult: mult, patch_size } = this.config;
    let inputs = base_ch * mult.at(-1)!;
    const perPixel = mult
      .map((_, i) => i)
      .reverse()
      .map((index) => {
        const outputs = base_ch * mult[index]!;
        // x, norm, conv, norm, conv, the shortcut and the sum.
        const most = 2 * inputs + 5 * outputs;
        inputs = outputs;
        const doublings = Math.log2(patch_size);
        return most / 4 ** Math.min(index, doublings);
      });
    return dtypeBytes[this.dtype] * height * width * Math.max(...perPixel);
  }
}
