/** Pictures as bits and back: the visual tokenizer on its own. */
import { describe, InfinityError, invalidArgument } from '../errors.js';
import { Image } from '../io/image.js';
import { type Pixels, toSignedFloat } from '../io/pixels.js';
import { resizeCenterCrop } from '../io/resize.js';
import { Tensor } from '../tensor.js';
import { sumOfBits } from '../tokenizer/bit_tokens.js';
import { MultiScaleQuantizer } from '../tokenizer/quantizer.js';
import { patchifySchedule, type ScaleSchedule, sameSchedule } from '../tokenizer/schedule.js';
import { decodePictures } from './draw.js';
import type { Job } from './job.js';
import type { Model } from './load.js';
import { nearestSize, type SizeChoice } from './sizes.js';

/** A picture as the tokenizer keeps it: every latent position of every scale as `dim` bits. */
export interface BitTokens {
  /** Pixels. */
  readonly height: number;
  readonly width: number;
  /** Bits of a latent position. */
  readonly dim: number;
  /** Grids of latent positions from coarse to fine. */
  readonly schedule: ScaleSchedule;
  /** 0 or 1, [rows, columns, dim] of each scale. */
  readonly scales: readonly Uint8Array[];
}

/** Latent grids of a size. */
function latentSchedule({ generator }: Model, { schedule }: SizeChoice): ScaleSchedule {
  return generator?.transformer.config.apply_spatial_patchify ? patchifySchedule(schedule) : schedule;
}

/**
 * The picture in the model's size of the nearest shape, resized and cropped where it has another.
 *
 * @throws InfinityError IMAGE_INVALID for anything that is no picture
 */
export function fitPicture(picture: Pixels, sizes: readonly SizeChoice[]): { pixels: Pixels; choice: SizeChoice } {
  const { width, height, data } = (picture ?? {}) as Partial<Pixels>;
  const sound = Number.isInteger(width) && Number.isInteger(height) && data instanceof Uint8Array;
  if (!sound || !(width! > 0 && height! > 0) || data.length !== width! * height! * 3)
    throw new InfinityError('IMAGE_INVALID', `Expected a picture but received ${describe(picture)}.`, {
      value: picture,
      cure: 'Read a file with loadImage(), or pass { width, height, data } with RGB bytes.',
    });
  const choice = nearestSize(sizes, [height!, width!]);
  return { pixels: resizeCenterCrop(picture, ...choice.size), choice };
}

/** Bits of a picture that has the size of `choice`. */
export async function encodePicture(model: Model, pixels: Pixels, choice: SizeChoice, job: Job): Promise<BitTokens> {
  const { autoencoder } = model;
  const dim = autoencoder.config.codebook_dim;
  const [height, width] = choice.size;
  const schedule = latentSchedule(model, choice);
  const bits = job.submit(() => {
    const image_BHWC = Tensor.from(toSignedFloat(pixels.data), [1, height, width, 3], 'f32', autoencoder.device);
    return new MultiScaleQuantizer({ codebookDim: dim }).encode(autoencoder.encode(image_BHWC), schedule);
  });
  try {
    const scales = await Promise.all(bits.map(async (tensor) => Uint8Array.from(await job.read(tensor))));
    return { height, width, dim, schedule, scales };
  } finally {
    for (const tensor of bits) tensor.dispose();
  }
}

/** @throws InfinityError INVALID_ARGUMENT unless the bits fit a size of the model */
function checkBits(model: Model, tokens: BitTokens): SizeChoice {
  const { dim, height, width, schedule, scales } = (tokens ?? {}) as Partial<BitTokens>;
  const d = model.autoencoder.config.codebook_dim;
  if (dim !== d) invalidArgument('dim of the bits', String(d), dim, 'Use bits that this model encoded.');
  const choice = model.sizes.find(({ size }) => size[0] === height && size[1] === width);
  const known = choice && Array.isArray(schedule) && sameSchedule(schedule, latentSchedule(model, choice));
  if (!known)
    invalidArgument(
      'the grids of the bits',
      'those of a size of this model',
      schedule,
      'Use bits that this model encoded.',
    );
  const fits = (bits: unknown, k: number): boolean =>
    bits instanceof Uint8Array && bits.length === schedule[k]![1] * schedule[k]![2] * d && bits.every((b) => b <= 1);
  if (!Array.isArray(scales) || scales.length !== schedule.length || !scales.every(fits))
    invalidArgument(
      'the bits',
      '0 or 1 for every position of every scale',
      scales,
      'Use bits that this model encoded.',
    );
  return choice;
}

/** The picture of bits. */
export async function decodeBits(model: Model, tokens: BitTokens, job: Job): Promise<Image> {
  const choice = checkBits(model, tokens);
  const { schedule, scales, dim } = tokens;
  const sum_1hwd = job.submit(() => {
    const { device } = model.autoencoder;
    const bits = scales.map((values, k) =>
      Tensor.from(values, [1, schedule[k]![1], schedule[k]![2], dim], 'u8', device),
    );
    return sumOfBits(bits, schedule);
  });
  try {
    const [pixels] = await decodePictures(model.autoencoder, sum_1hwd, 1, choice.size, job);
    return new Image(pixels!);
  } finally {
    sum_1hwd.dispose();
  }
}

/** Peak signal-to-noise ratio of two pictures of one size, dB. */
export function psnr(a: Pixels, b: Pixels): number {
  let squares = 0;
  for (let i = 0; i < a.data.length; i++) squares += (a.data[i]! - b.data[i]!) ** 2;
  return 10 * Math.log10((255 * 255 * a.data.length) / squares);
}
