/** Samples of a dataset put together, the same in whichever thread. */
import type { Lookup } from '../io/blob_cache.js';
import type { BadRow } from './bad_rows.js';
import type { BatchRequest, Dataset } from './sample.js';

export type { BatchRequest } from './sample.js';

/** Consecutive samples side by side. */
export interface Batch {
  /** Samples `first … first + captions.length - 1` of the dataset. */
  readonly first: number;
  /** Of every sample. */
  readonly size: readonly [height: number, width: number];
  /** RGB bytes, [samples, height, width, 3]; zeros where `features` holds what is computed from them. */
  readonly pixels: Uint8Array;
  readonly captions: readonly string[];
  /** Of every sample's picture, its entry of the cache; absent without one. */
  readonly features?: readonly Lookup[];
  /** Likewise of every caption. */
  readonly textFeatures?: readonly Lookup[];
  /** Rows passed over on the way because their pictures cannot be decoded. */
  readonly bad: readonly BadRow[];
}

/**
 * The samples of a request, one after the other so that one decoded picture is held at a time. A pure function of its
 * arguments.
 * @throws InfinityError INVALID_ARGUMENT when no sample can be made; the signal's reason
 */
export async function drawBatch(dataset: Dataset, request: BatchRequest, signal?: AbortSignal): Promise<Batch> {
  const { first, count, wanted = count } = request;
  const size = dataset.sizeOf(request);
  const stride = size[0] * size[1] * 3;
  const pixels = new Uint8Array(wanted * stride);
  const captions: string[] = [];
  const features: Lookup[] = [];
  const textFeatures: Lookup[] = [];
  const bad: BadRow[] = [];
  for (let i = 0; i < wanted; i++) {
    signal?.throwIfAborted();
    const sample = await dataset.sample(first + i, request);
    if (sample.pixels) pixels.set(sample.pixels, i * stride);
    if (sample.features) features.push(sample.features);
    if (sample.textFeatures) textFeatures.push(sample.textFeatures);
    captions.push(sample.caption);
    for (const row of sample.bad) bad.push(row);
  }
  const kept = {
    ...(features.length > 0 ? { features } : {}),
    ...(textFeatures.length > 0 ? { textFeatures } : {}),
  };
  return { first, size, pixels, captions, ...kept, bad };
}

/** Equal parts of a batch, in order; their pixels are views. `parts` divides the number of samples. */
export function splitBatch(batch: Batch, parts: number): Batch[] {
  const { first, size, pixels, captions, features, textFeatures, bad } = batch;
  const count = captions.length / parts;
  const bytes = pixels.length / parts;
  return Array.from({ length: parts }, (_, i) => ({
    first: first + i * count,
    size,
    pixels: pixels.subarray(i * bytes, (i + 1) * bytes),
    captions: captions.slice(i * count, (i + 1) * count),
    ...(features ? { features: features.slice(i * count, (i + 1) * count) } : {}),
    ...(textFeatures ? { textFeatures: textFeatures.slice(i * count, (i + 1) * count) } : {}),
    bad: i === 0 ? bad : [],
  }));
}
