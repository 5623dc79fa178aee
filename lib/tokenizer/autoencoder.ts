/** The bitwise visual tokenizer: encoder, multi-scale quantiser, decoder. Source: flux_vqgan.py, AutoEncoder. */
import { InfinityError } from '../errors.js';
import { Module, placed, type Tap } from '../nn/module.js';
import { clamp } from '../ops/elementwise.js';
import { statistic } from '../ops/run.js';
import { type Shape, scope, type Tensor } from '../tensor.js';
import type { PassOptions } from './blocks.js';
import type { AutoencoderConfig } from './config.js';
import { Decoder } from './decoder.js';
import { Encoder } from './encoder.js';
import { autoencoderOptionOf } from './infer_config.js';

/** Encoder and decoder; the quantiser between them has no weights. */
export class Autoencoder extends Module {
  readonly encoder: Encoder;
  readonly decoder: Decoder;

  constructor(readonly config: AutoencoderConfig) {
    super();
    // Bits are signs of features: the encoder is not rounded.
    const encoder = placed({ device: this.device, dtype: statistic(this) }, () => new Encoder(config));
    this.encoder = this.child('encoder', encoder);
    this.decoder = this.child('decoder', new Decoder(config));
  }

  /** Everything beside encoder and decoder: masks of the quantiser, the perceptual network of a training checkpoint. */
  protected override ignores(name: string): boolean {
    return !/^(encoder|decoder)\./.test(name);
  }

  protected override optionOf(name: string): string {
    return autoencoderOptionOf(name);
  }

  /** Older files spell a wrapped layer without its wrapper: "conv1.weight" for "conv1.conv.weight". */
  protected override sourceName(name: string, shapes: ReadonlyMap<string, Shape>): string {
    return shapes.has(name) ? name : name.replace(/\.(conv|norm)\.(weight|bias)$/, '.$2');
  }

  /**
   * Features before quantisation.
   * @param image_BHWC pictures in [-1, 1], channels last, extents multiples of `patch_size`
   * @returns features_BhwD
   * @throws InfinityError UNSUPPORTED_SIZE
   */
  encode(image_BHWC: Tensor, tap?: Tap, options?: PassOptions): Tensor {
    const [, height, width, channels] = image_BHWC.shape as [number, number, number, number];
    const { patch_size } = this.config;
    if (image_BHWC.rank !== 4 || channels !== 3 || height % patch_size || width % patch_size)
      throw new InfinityError(
        'UNSUPPORTED_SIZE',
        `Expected pictures [B, H, W, 3] with H and W multiples of ${patch_size} but received [${image_BHWC.shape.join(', ')}].`,
        { value: image_BHWC.shape, cure: 'Resize the picture first.' },
      );
    return this.encoder.forward(image_BHWC, tap && ((name, value) => tap(`encoder.${name}`, value)), options);
  }

  /** Pictures in [-1, 1] of a sum of codes, codes_BhwD -> image_BHWC. */
  decode(codes_BHWD: Tensor, tap?: Tap): Tensor {
    return scope(() => clamp(this.decodeUnclamped(codes_BHWD, tap), -1, 1));
  }

  /** `decode` of one picture in bands of rows: the same picture, with less than half the memory for activations. */
  decodeInBands(codes_1HWD: Tensor, bandBytes?: number): Tensor {
    return scope(() => clamp(this.decoder.forwardInBands(codes_1HWD, bandBytes), -1, 1));
  }

  /** What training compares with the picture: the decoder's output as it is. */
  decodeUnclamped(codes_BHWD: Tensor, tap?: Tap, options?: PassOptions): Tensor {
    return this.decoder.forward(codes_BHWD, tap && ((name, value) => tap(`decoder.${name}`, value)), options);
  }
}
