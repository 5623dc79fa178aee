/** What every dataset gives. */
import type { Lookup } from '../io/blob_cache.js';
import type { BadRow } from './bad_rows.js';

/** One picture and its caption. */
export interface TrainingSample {
  /** RGB, row-major, height × width × 3; absent where what is computed from them was found in the cache. */
  readonly pixels?: Uint8Array;
  /** Where the training has a cache of what is computed from a picture: the entry of this one. */
  readonly features?: Lookup;
  /** Where what is computed from captions is cached: the entry of this one. */
  readonly textFeatures?: Lookup;
  /** Empty where the training needs none. */
  readonly caption: string;
  /** Rows passed over on the way to this one because their pictures cannot be decoded. */
  readonly bad: readonly BadRow[];
}

/** Samples `first … first + count - 1` of a dataset; where it has several sizes, `first` is a multiple of `count`. */
export interface BatchRequest {
  readonly first: number;
  readonly count: number;
  /** So many of them, the first ones, are made; all by default. */
  readonly wanted?: number | undefined;
}

/** An endless set; all it gives is a pure function of the index and the batch. */
export interface Dataset {
  /** Height and width of the samples of a batch. */
  sizeOf(batch: BatchRequest): readonly [height: number, width: number];
  /**
   * Sample number `index`, which lies in `batch`.
   * @throws InfinityError INVALID_ARGUMENT when no sample can be made of any row
   */
  sample(index: number, batch: BatchRequest): Promise<TrainingSample>;
}

/** Which training the samples are for: each prepares pictures in its own way, and only one needs captions. */
export type Purpose = 'tokenizer' | 'transformer';
