/** Drawing from a picture instead of from nothing: what of it stays (`edit`), and how far it is followed (`vary`). */
import { createHash } from 'node:crypto';
import { InfinityError, invalidArgument } from '../errors.js';
import type { Image } from '../io/image.js';
import type { Pixels } from '../io/pixels.js';
import { resizeCenterCrop } from '../io/resize.js';
import { Tensor } from '../tensor.js';
import type { BitTokens } from '../tokenizer/bit_file.js';
import { tokensOfMap } from '../tokenizer/bit_tokens.js';
import { forcedBits } from '../tokenizer/kept.js';
import type { Job } from './job.js';
import type { Model } from './load.js';
import { blendWeights, checkPlace, type Place, placed, redrawnPixels, redrawnPositions } from './mask.js';
import { checkInteger, GENERATE_OPTIONS, type GenerateOptions } from './options.js';
import type { Origin } from './origin.js';
import { checkPicture, decodeBits, encodePicture } from './picture_bits.js';
import type { SizeChoice } from './sizes.js';

export interface EditOptions extends GenerateOptions {
  /** Out-painting: where the picture goes on a canvas of `size`; all around it is drawn. Default: the picture fills the canvas. */
  readonly place?: Place | undefined;
}

export interface VaryOptions extends GenerateOptions {
  /** How many of its first scales stay: 0 keeps nothing, all of them draw nothing. */
  readonly keepScales: number;
  /** Default: the prompt that travels inside the picture. */
  readonly prompt?: string | readonly string[] | undefined;
}

export const EDIT_OPTIONS: readonly string[] = [...GENERATE_OPTIONS, 'place'];
export const VARY_OPTIONS: readonly string[] = [...GENERATE_OPTIONS, 'keepScales', 'prompt'];

/** What names the picture in metadata: the digest of the bit file that `encode` writes of it. */
function nameOf(tokens: BitTokens): string {
  return createHash('sha256').update(tokens.toBytes()).digest('hex');
}

/** Bits [h, w, d] of each scale as the transformer counts them, [L, D]. */
async function tokenLayout(
  model: Model,
  { schedule, dim }: BitTokens,
  maps: readonly Uint8Array[],
  job: Job,
): Promise<Uint8Array[]> {
  const patchify = model.generator?.transformer.config.apply_spatial_patchify;
  const tokens = job.submit(() =>
    maps.map((bits, k) => {
      const [, h, w] = schedule[k]!;
      return tokensOfMap(Tensor.from(bits, [1, h, w, dim], 'u8', model.autoencoder.device), patchify);
    }),
  );
  try {
    return await Promise.all(tokens.map(async (tensor) => Uint8Array.from(await job.read(tensor))));
  } finally {
    for (const tensor of tokens) tensor.dispose();
  }
}

/** What is checked of an edit before any work is done. */
export interface CheckedEdit {
  readonly canvas: Pixels;
  /** Pixels that are drawn anew, 1 or 0. */
  readonly redrawn: Uint8Array;
  readonly place: Place | undefined;
}

/** @throws InfinityError IMAGE_INVALID, INVALID_ARGUMENT */
export function checkEdit(
  picture: Pixels,
  mask: Pixels | undefined,
  place: Place | undefined,
  { size }: SizeChoice,
): CheckedEdit {
  checkPicture(picture);
  if (place) checkPlace(place, size);
  else if (!mask)
    invalidArgument('the mask', 'a picture that is white where it is drawn anew', mask, 'Pass a mask, or a place.');
  const [height, width] = size;
  const where = place ?? { top: 0, left: 0, height, width };
  const redrawn = redrawnPixels(mask, picture, size, where);
  return { canvas: place ? placed(picture, size, place) : resizeCenterCrop(picture, height, width), redrawn, place };
}

/**
 * What stays of a picture outside a mask: the bits of every token that mostly stays, and at latent positions without a redrawn
 * pixel the whole running sum, so that the decoder reads there exactly what it reads in the plain reconstruction. It looks
 * farther than one position, though, and normalises over the picture: farther than one stride from the mask, pixels are
 * those of the plain reconstruction, and in between the two are blended.
 */
export async function keepAround(model: Model, edit: CheckedEdit, choice: SizeChoice, job: Job): Promise<Origin> {
  const { canvas, redrawn: pixels, place } = edit;
  const stride = model.autoencoder.config.patch_size;
  const tokens = await encodePicture(model, canvas, choice, job);
  const plain = await decodeBits(model, tokens, job);
  const redrawn = redrawnPositions(pixels, choice.size, stride);
  const forced = await tokenLayout(model, tokens, forcedBits(tokens.scales, tokens.schedule, redrawn), job);
  const weights = blendWeights(pixels, choice.size, stride);
  const share = pixels.reduce((sum, r) => sum + r, 0) / pixels.length;
  const metadata = { edit: { picture: nameOf(tokens), redrawn: Number(share.toFixed(4)), ...(place && { place }) } };
  return { forced, region: { tokens, plain, redrawn, weights }, metadata };
}

/** @throws InfinityError PROMPT_EMPTY where neither the options nor the picture hold one */
export function promptOfVariation(picture: Pixels, { prompt }: VaryOptions): string | readonly string[] {
  const own = (picture as Partial<Image> | undefined)?.metadata?.prompt;
  if (prompt !== undefined) return prompt;
  if (typeof own === 'string') return own;
  throw new InfinityError('PROMPT_EMPTY', 'Expected a prompt, since the picture carries none.', {
    value: prompt,
    cure: 'Say what it shows in the option prompt.',
  });
}

/** @throws InfinityError INVALID_ARGUMENT */
export function checkKeepScales(keepScales: number, { schedule }: SizeChoice): void {
  checkInteger('keepScales', keepScales, 0, schedule.length);
}

/** What stays of a picture when its first scales do; it is resized and cropped to the size of `choice`. */
export async function keepFirst(
  model: Model,
  picture: Pixels,
  keepScales: number,
  choice: SizeChoice,
  job: Job,
): Promise<Origin> {
  const tokens = await encodePicture(model, resizeCenterCrop(picture, ...choice.size), choice, job);
  const forced = await tokenLayout(model, tokens, tokens.scales.slice(0, keepScales), job);
  return { forced, metadata: { vary: { picture: nameOf(tokens), keepScales } } };
}
