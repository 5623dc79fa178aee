/** Sum of codes to picture. Source: Infinity, infinity/models/bsq_vae/flux_vqgan.py, Decoder. */
import { Module, type Tap } from '../nn/module.js';
import { scope, type Tensor } from '../tensor.js';
import { Conv, Normalize, ResnetBlock, Upsample } from './blocks.js';
import type { AutoencoderConfig } from './config.js';

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

  constructor(config: AutoencoderConfig) {
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
  forward(codes_BHWD: Tensor, tap?: Tap): Tensor {
    const step = (name: string, fn: () => Tensor): Tensor => {
      const y = scope(fn);
      tap?.(name, y);
      return y;
    };
    return scope(() => {
      let h_BHWC = step('conv_in', () => this.convIn.forward(codes_BHWD));
      for (const [j, block] of this.mid.entries()) h_BHWC = step(`mid.block_${j + 1}`, () => block.forward(h_BHWC));
      for (const { index, blocks, upsample } of this.up) {
        for (const [j, block] of blocks.entries()) h_BHWC = step(`up.${index}.block.${j}`, () => block.forward(h_BHWC));
        if (upsample) h_BHWC = step(`up.${index}.upsample`, () => upsample.forward(h_BHWC));
      }
      tap?.('norm_out', this.normOut.forward(h_BHWC));
      return step('conv_out', () => this.convOut.forward(this.normOut.swish(h_BHWC)));
    });
  }
}
