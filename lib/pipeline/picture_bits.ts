/** Pictures as bits and back: the visual tokenizer on its own. */
import { describe, InfinityError, invalidArgument } from '../errors.js';
import { Image } from '../io/image.js';
import { psnr, ssim } from '../io/picture_metrics.js';
import { type Pixels, toSignedFloat } from '../io/pixels.js';
import { resizeCenterCrop } from '../io/resize.js';
import { Tensor } from '../tensor.js';
import { BitTokens, type TokenizerName } from '../tokenizer/bit_file.js';
import { sumOfBits } from '../tokenizer/bit_tokens.js';
import { MultiScaleQuantizer } from '../tokenizer/quantizer.js';
import { patchifySchedule, type ScaleSchedule, sameSchedule } from '../tokenizer/schedule.js';
import { decodePictures } from './draw.js';
import type { Job } from './job.js';
import type { Model } from './load.js';
import { withNetwork } from './residency.js';
import { nearestSize, type SizeChoice } from './sizes.js';

/** Latent grids of a size. */
function latentSchedule({ generator }: Model, { schedule }: SizeChoice): ScaleSchedule {
  return generator?.transformer.config.apply_spatial_patchify ? patchifySchedule(schedule) : schedule;
}

/** @throws InfinityError IMAGE_INVALID for anything that is no picture */
export function checkPicture(picture: Pixels): Pixels {
  const { width, height, data } = (picture ?? {}) as Partial<Pixels>;
  const sound = Number.isInteger(width) && Number.isInteger(height) && data instanceof Uint8Array;
  if (!sound || !(width! > 0 && height! > 0) || data.length !== width! * height! * 3)
    throw new InfinityError('IMAGE_INVALID', `Expected a picture but received ${describe(picture)}.`, {
      value: picture,
      cure: 'Read a file with loadImage(), or pass { width, height, data } with RGB bytes.',
    });
  return picture;
}

/**
 * The picture in the model's size of the nearest shape, resized and cropped where it has another.
 *
 * @throws InfinityError IMAGE_INVALID for anything that is no picture
 */
export function fitPicture(picture: Pixels, sizes: readonly SizeChoice[]): { pixels: Pixels; choice: SizeChoice } {
  const { height, width } = checkPicture(picture);
  const choice = nearestSize(sizes, [height, width]);
  return { pixels: resizeCenterCrop(picture, ...choice.size), choice };
}

/** Bits of a picture that has the size of `choice`. */
export async function encodePicture(model: Model, pixels: Pixels, choice: SizeChoice, job: Job): Promise<BitTokens> {
  const { autoencoder, tokenizer } = model;
  const dim = autoencoder.config.codebook_dim;
  const [height, width] = choice.size;
  const schedule = latentSchedule(model, choice);
  const encode = () => {
    const image_BHWC = Tensor.from(toSignedFloat(pixels.data), [1, height, width, 3], 'f32', autoencoder.device);
    return new MultiScaleQuantizer({ codebookDim: dim }).encode(autoencoder.encode(image_BHWC), schedule);
  };
  const bits = await withNetwork(model.residency, 'vae', job.signal, () => job.submit(encode));
  try {
    const scales = await Promise.all(bits.map(async (tensor) => Uint8Array.from(await job.read(tensor))));
    return new BitTokens({ height, width, dim, schedule, scales, tokenizer });
  } finally {
    for (const tensor of bits) tensor.dispose();
  }
}

/** @throws InfinityError INVALID_ARGUMENT unless this model's tokenizer made the bits, for a size of this model */
function checkBits(model: Model, tokens: BitTokens): SizeChoice {
  if (!(tokens instanceof BitTokens))
    invalidArgument('the bits', 'a BitTokens', tokens, 'Pass what encode() or BitTokens.fromFile() gave.');
  const { height, width, dim, schedule, tokenizer: made } = tokens;
  const { autoencoder, tokenizer: own, sizes } = model;
  const called = ({ name, sha256 }: TokenizerName): string => `"${name}" (${sha256.slice(0, 12)})`;
  if (made.sha256 !== own.sha256)
    throw new InfinityError(
      'INVALID_ARGUMENT',
      `The bits were made by the tokenizer of ${called(made)}, not by that of ${called(own)}.`,
      { value: made, cure: 'Load the checkpoint that encoded them.' },
    );
  const choice = sizes.find(({ size }) => size[0] === height && size[1] === width);
  if (choice && dim === autoencoder.config.codebook_dim && sameSchedule(schedule, latentSchedule(model, choice)))
    return choice;
  const grids = schedule.map(([, rows, columns]) => `${rows}x${columns}`).join(' ');
  return invalidArgument(
    'the grids of the bits',
    'those of a size of this model',
    `${height}x${width}: ${grids}`,
    'Load the checkpoint that encoded them.',
  );
}

/** The picture of bits; of the first `count` scales alone, a coarser one. */
export async function decodeBits(model: Model, tokens: BitTokens, job: Job, count?: number): Promise<Image> {
  const choice = checkBits(model, tokens);
  const { schedule, scales, dim } = count === undefined ? tokens : tokens.prefix(count);
  const sum_1hwd = job.submit(() => {
    const { device } = model.autoencoder;
    const bits = scales.map((values, k) =>
      Tensor.from(values, [1, schedule[k]![1], schedule[k]![2], dim], 'u8', device),
    );
    return sumOfBits(bits, schedule);
  });
  try {
    const [pixels] = await decodePictures(model, sum_1hwd, 1, choice.size, job);
    return new Image(pixels!);
  } finally {
    sum_1hwd.dispose();
  }
}

export interface Reconstruction {
  readonly image: Image;
  /** Against the picture as it was encoded, dB; Infinity when nothing was lost. */
  readonly psnr: number;
  /** Structural similarity of the luma to the picture as it was encoded; 1 when nothing was lost. */
  readonly ssim: number;
  /** How many bits stand for the picture. */
  readonly bits: number;
  readonly bitsPerPixel: number;
}

/** A picture through the tokenizer and back. */
export async function reconstructPicture(model: Model, picture: Pixels, job: Job): Promise<Reconstruction> {
  const { pixels, choice } = fitPicture(picture, model.sizes);
  const tokens = await encodePicture(model, pixels, choice, job);
  const image = await decodeBits(model, tokens, job);
  const { bitCount: bits, bitsPerPixel } = tokens;
  return { image, psnr: psnr(pixels, image), ssim: await ssim(pixels, image), bits, bitsPerPixel };
}
