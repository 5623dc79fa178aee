/** What a picture was drawn from, as it travels inside its PNG file, and the way back to a request. */
import { InfinityError } from '../errors.js';
import type { Image } from '../io/image.js';
import type { Metadata } from '../io/png_metadata.js';
import type { GenerateOptions, PictureRequest, Plan } from './options.js';

/** Which weights drew a picture. No path: a picture may go where its maker's folders are nobody's business. */
export interface ModelName {
  readonly name: string;
  /** Digest of what decides its pictures: weights, configurations, text tokenizer. */
  readonly sha256: string;
}

export interface PictureSettings {
  readonly model: ModelName;
  readonly prompt: string;
  /** With the prompt and the same model, they draw the same picture again, bit for bit. */
  readonly options: GenerateOptions;
}

/** One number where all scales agree. */
function compact(values: readonly number[]): number | readonly number[] {
  return values.every((v) => v === values[0]) ? values[0]! : values;
}

/** The metadata of a picture; its seed is stored beside it. */
export function metadataOf(model: ModelName, plan: Plan, { prompt, image }: PictureRequest): Metadata {
  const { choice, negativePrompt, guidance, tau, topK, topP, origin } = plan;
  return {
    prompt,
    ...(negativePrompt === undefined ? {} : { negativePrompt }),
    image,
    size: choice.size,
    guidance: compact(guidance),
    tau: compact(tau),
    topK,
    topP,
    model,
    ...origin?.metadata,
  };
}

/**
 * The request that draws a picture of this package again.
 *
 * @throws InfinityError IMAGE_INVALID when the picture carries no settings, or was drawn from another picture
 */
export function settingsOf({ seed, metadata }: Image): PictureSettings {
  if (metadata.edit !== undefined || metadata.vary !== undefined)
    throw new InfinityError('IMAGE_INVALID', 'The picture was drawn from another one, not from its settings alone.', {
      value: metadata.edit ?? metadata.vary,
      cure: 'Call edit() or vary() with that picture and these settings again.',
    });
  const { prompt, negativePrompt, image, size, guidance, tau, topK, topP, model } = metadata;
  const { name, sha256 } = (model ?? {}) as Partial<Record<keyof ModelName, unknown>>;
  if (typeof prompt !== 'string' || seed === undefined || typeof name !== 'string' || typeof sha256 !== 'string')
    throw new InfinityError('IMAGE_INVALID', 'Expected a picture that carries its settings but this one has none.', {
      value: Object.keys(metadata),
      cure: 'Use a PNG file that this package drew and no other program has written again.',
    });
  // Only what is there is passed on; `generate` checks it as it checks any request.
  const stored = { negativePrompt, firstImage: image, size, guidance, tau, topK, topP };
  const given = Object.fromEntries(Object.entries(stored).filter(([, value]) => value !== undefined));
  return { model: { name, sha256 }, prompt, options: { ...(given as GenerateOptions), seed } };
}
