/** Picture to features. Source: Infinity, infinity/models/bsq_vae/flux_vqgan.py, Encoder. */
import { Module, type Tap } from '../nn/module.js';
import { scope, type Tensor } from '../tensor.js';
import { Conv, Downsample, Normalize, type PassOptions, ResnetBlock } from './blocks.js';
import type { AutoencoderConfig } from './config.js';
import { type Layers, throughLayers } from './layers.js';

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
  forward(image_BHWC: Tensor, tap?: Tap, options?: PassOptions): Tensor {
    return scope(() => {
      const h_BHWC = throughLayers(this.layers(), image_BHWC, this.normOut, tap, options);
      tap?.('norm_out', this.normOut.forward(h_BHWC.picture));
      const features_BhwD = this.convOut.forward(this.normOut.swish(h_BHWC));
      tap?.('conv_out', features_BhwD);
      return features_BhwD;
    });
  }

  private layers(): Layers {
    const levels = this.down.flatMap(
      ({ blocks, downsample }, level): Layers => [
        ...blocks.map((block, j) => [`down.${level}.block.${j}`, block] as const),
        ...(downsample ? [[`down.${level}.downsample`, downsample] as const] : []),
      ],
    );
    const mid = this.mid.map((block, j) => [`mid.block_${j + 1}`, block] as const);
    return [['conv_in', this.convIn], ...levels, ...mid];
  }
}
