/** Picture to features. Source: Infinity, infinity/models/bsq_vae/flux_vqgan.py, Encoder. */
import { Module, type Tap } from '../nn/module.js';
import { scope, type Tensor } from '../tensor.js';
import { Conv, Downsample, Normalize, type PassOptions, ResnetBlock, recomputed } from './blocks.js';
import type { AutoencoderConfig } from './config.js';

interface Level {
  readonly blocks: readonly ResnetBlock[];
  readonly downsample: Downsample | undefined;
}

/** Levels of residual blocks, the first of which halve the extents, then two blocks at the latent grid. */
export class Encoder extends Module {
  private readonly convIn: Conv;
  private readonly down: readonly Level[];
  private readonly mid: readonly [ResnetBlock, ResnetBlock];
  private readonly normOut: Normalize;
  private readonly convOut: Conv;

  constructor(config: AutoencoderConfig) {
    super();
    const { base_ch, encoder_ch_mult, num_res_blocks, codebook_dim, patch_size, norm_groups: groups } = config;
    this.convIn = this.child('conv_in', new Conv(3, base_ch, { kernel: 3 }));
    let channels = base_ch;
    this.down = encoder_ch_mult.map((mult, level) => {
      const width = base_ch * mult;
      const blocks = Array.from({ length: num_res_blocks }, (_, j) => {
        const block = this.child(`down.${level}.block.${j}`, new ResnetBlock(channels, width, groups));
        channels = width;
        return block;
      });
      const halves = 2 ** level < patch_size;
      return {
        blocks,
        downsample: halves ? this.child(`down.${level}.downsample`, new Downsample(width)) : undefined,
      };
    });
    this.mid = [
      this.child('mid.block_1', new ResnetBlock(channels, channels, groups)),
      this.child('mid.block_2', new ResnetBlock(channels, channels, groups)),
    ];
    this.normOut = this.child('norm_out', new Normalize(channels, groups));
    this.convOut = this.child('conv_out', new Conv(channels, codebook_dim, { kernel: 3 }));
  }

  /** image_BHWC in [-1, 1], extents multiples of patch_size -> features_BhwD. @param tap told every sub-module's output by its official name */
  forward(image_BHWC: Tensor, tap?: Tap, { checkpointing = false }: PassOptions = {}): Tensor {
    const through = (block: ResnetBlock, x: Tensor): Tensor =>
      checkpointing ? recomputed(block, x) : block.forward(x);
    const step = (name: string, fn: () => Tensor): Tensor => {
      const y = scope(fn);
      tap?.(name, y);
      return y;
    };
    return scope(() => {
      let h_BHWC = step('conv_in', () => this.convIn.forward(image_BHWC));
      for (const [level, { blocks, downsample }] of this.down.entries()) {
        for (const [j, block] of blocks.entries())
          h_BHWC = step(`down.${level}.block.${j}`, () => through(block, h_BHWC));
        if (downsample) h_BHWC = step(`down.${level}.downsample`, () => downsample.forward(h_BHWC));
      }
      for (const [j, block] of this.mid.entries()) h_BHWC = step(`mid.block_${j + 1}`, () => through(block, h_BHWC));
      tap?.('norm_out', this.normOut.forward(h_BHWC));
      return step('conv_out', () => this.convOut.forward(this.normOut.swish(h_BHWC)));
    });
  }
}
