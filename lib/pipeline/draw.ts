/** Drawing a checked request: groups of pictures, scale by scale, then the decoder. */
import type { Device } from '../device.js';
import { Image, loadImageCodec } from '../io/image.js';
import { fromSignedFloat, type Pixels } from '../io/pixels.js';
import { slice } from '../ops/shape.js';
import type { Tensor } from '../tensor.js';
import type { InfinityConfig } from '../transformer/config.js';
import { kvElements, kvExtents } from '../transformer/kv_cache.js';
import type { Recordings } from '../transformer/recordings.js';
import { sampleScales } from '../transformer/sampler.js';
import type { TextFeatures } from '../transformer/text.js';
import type { Job } from './job.js';
import type { Generator, Model } from './load.js';
import type { Plan, ScaleEvent } from './options.js';
import { joined, sumsOf } from './origin.js';
import type { PromptFeatures } from './prompt_features.js';
import { withNetwork } from './residency.js';
import { type ModelName, metadataOf } from './settings.js';
import type { Size } from './sizes.js';

/** Pictures drawn together: beyond this, products have rows enough and only memory grows. */
const MAX_GROUP = 16;
/** Share of the device's memory that the keys and values of one group may take. */
const CACHE_SHARE = 0.25;
/** Pixels decoded together. */
const DECODE_PIXELS = 2 ** 18;
/** Share of the device's memory that the activations of a picture decoded as a whole may take. */
const DECODE_SHARE = 0.25;

export interface DrawContext {
  readonly model: Model;
  readonly generator: Generator;
  readonly name: ModelName;
  readonly features: PromptFeatures;
  readonly device: Device;
  readonly recordings: Recordings | undefined;
}

/** A finished scale: of the last one the pictures, of one with a preview the first picture so far. */
export interface DrawEvent extends ScaleEvent {
  readonly images?: readonly Image[];
  readonly preview?: Image;
}

/** How many pictures of a plan are drawn together. */
export function groupSize(config: InfinityConfig, { choice, guidance }: Plan, memoryLimit: number): number {
  const rows = guidance.some((g) => g !== 1) ? 2 : 1;
  const cacheBytes = rows * kvElements(kvExtents(config, choice.schedule)) * 4;
  return Math.max(1, Math.min(MAX_GROUP, Math.floor((memoryLimit * CACHE_SHARE) / cacheBytes)));
}

/** The first B pictures of sums of codes [>= B, h, w, d], as RGB bytes. */
export async function decodePictures(
  { autoencoder, residency, tile }: Pick<Model, 'autoencoder' | 'residency' | 'tile'>,
  sum_BhwD: Tensor,
  B: number,
  [height, width]: Size,
  job: Job,
): Promise<Pixels[]> {
  const { decoder, device } = autoencoder;
  const whole = decoder.wholeBytes(height, width);
  const inBands = tile === 'auto' ? whole > device.stats().limitBytes * DECODE_SHARE : tile;
  const together = inBands ? 1 : Math.max(1, Math.floor(DECODE_PIXELS / (height * width)));
  const pictures: Pixels[] = [];
  for (let first = 0; first < B; first += together) {
    const last = Math.min(B, first + together);
    const decode = () => {
      const sum = slice(sum_BhwD, 0, first, last);
      return inBands ? autoencoder.decodeInBands(sum) : autoencoder.decode(sum);
    };
    const image_BHWC = await withNetwork(residency, 'vae', job.signal, () => job.submit(decode));
    let values: Float32Array;
    try {
      values = Float32Array.from(await job.read(image_BHWC));
    } finally {
      image_BHWC.dispose();
    }
    const size = height * width * 3;
    for (let b = 0; b < last - first; b++)
      pictures.push(fromSignedFloat(values.subarray(b * size, (b + 1) * size), height, width));
  }
  return pictures;
}

/**
 * Draws all pictures of a plan, one event a scale of each group.
 *
 * @param previews scales whose first picture is decoded on the way
 */
export async function* draw(
  context: DrawContext,
  plan: Plan,
  previews: ReadonlySet<number>,
  job: Job,
): AsyncGenerator<DrawEvent, void, void> {
  const { generator, device } = context;
  const size = groupSize(generator.transformer.config, plan, device.stats().limitBytes);
  const groups = Math.ceil(plan.pictures.length / size);
  for (let group = 0; group < groups; group++) {
    const pictures = plan.pictures.slice(group * size, (group + 1) * size);
    for await (const event of drawGroup(context, { ...plan, pictures }, previews, job))
      yield { ...event, group, groups };
  }
}

async function* drawGroup(
  { model, generator: { transformer }, name, features, recordings }: DrawContext,
  plan: Plan,
  previews: ReadonlySet<number>,
  job: Job,
): AsyncGenerator<Omit<DrawEvent, 'group' | 'groups'>, void, void> {
  const { choice, pictures, negativePrompt, guidance, tau, topK, topP, origin } = plan;
  const { residency } = model;
  const of = choice.schedule.length;
  const held: Tensor[] = [];
  const featuresOf = async (prompts: readonly string[]): Promise<TextFeatures> => {
    const encode = () => features.of(prompts);
    const known = features.knows(prompts);
    const text = known ? encode() : await withNetwork(residency, 'text_encoder', job.signal, encode);
    held.push(text.kv_NCt);
    return text;
  };
  const decoded = (sum_BHWd: Tensor, count: number): Promise<Image[]> =>
    decodeImages(model, sum_BHWd, { ...plan, pictures: pictures.slice(0, count) }, name, job);
  try {
    const text = await featuresOf(pictures.map(({ prompt }) => prompt));
    const away = negativePrompt === undefined ? undefined : await featuresOf(pictures.map(() => negativePrompt));
    const region = origin?.region;
    const kept = region && job.submit(() => sumsOf(region, transformer));
    if (kept) held.push(kept.redrawn_1HW1, ...kept.sums_1HWd);
    const own = { schedule: choice.schedule, images: pictures, guidance, tau, topK, topP, signal: job.signal };
    const how = { ...own, negative: away, forced: origin?.forced, kept, recordings };
    let lease = await residency.acquire('transformer', job.signal);
    try {
      for await (const { scale, sum_BHWd } of sampleScales(transformer, { text, ...how })) {
        const event = { type: 'scale', scale, of } as const;
        if (scale === of - 1) {
          // Decoded when keys and values have been released.
          held.push(sum_BHWd.retain());
        } else if (previews.has(scale)) {
          lease.release();
          const [preview] = await decoded(sum_BHWd, 1);
          lease = await residency.acquire('transformer', job.signal);
          yield { ...event, preview: preview! };
        } else {
          yield event;
        }
      }
    } finally {
      lease.release();
    }
    yield { type: 'scale', scale: of - 1, of, images: await decoded(held.at(-1)!, pictures.length) };
  } finally {
    for (const tensor of held) tensor.dispose();
  }
}

async function decodeImages(model: Model, sum_BhwD: Tensor, plan: Plan, name: ModelName, job: Job): Promise<Image[]> {
  const decoding = decodePictures(model, sum_BhwD, plan.pictures.length, plan.choice.size, job);
  // The decoder is the longest stretch without work for this thread: the codec is loaded meanwhile.
  void loadImageCodec().catch(() => undefined);
  return (await decoding).map((drawn, i) => {
    const picture = plan.pictures[i]!;
    const pixels = plan.origin?.region ? joined(plan.origin.region, drawn) : drawn;
    return new Image({ ...pixels, seed: picture.seed, metadata: metadataOf(name, plan, picture) });
  });
}
