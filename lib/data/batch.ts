/** Samples of a dataset put together, the same in whichever thread. */
import { type DatasetSpec, openDataset } from './dataset.js';

/** Consecutive samples side by side. */
export interface Batch {
  /** Samples `first … first + count - 1` of the dataset. */
  readonly first: number;
  /** RGB bytes, [count, height, width, 3]. */
  readonly pixels: Uint8Array;
  readonly captions: readonly string[];
}

/** Samples `first … first + count - 1`. */
export interface BatchRequest {
  readonly first: number;
  readonly count: number;
}

/** The samples of a request. A pure function of its arguments. @throws InfinityError INVALID_ARGUMENT */
export function drawBatch(spec: DatasetSpec, { first, count }: BatchRequest): Batch {
  const dataset = openDataset(spec);
  const stride = dataset.height * dataset.width * 3;
  const pixels = new Uint8Array(count * stride);
  const captions: string[] = [];
  for (let i = 0; i < count; i++) {
    const sample = dataset.sample(first + i);
    pixels.set(sample.pixels, i * stride);
    captions.push(sample.caption);
  }
  return { first, pixels, captions };
}
