/** What every dataset gives. */
import type { BadRow } from './bad_rows.js';

/** One picture and its caption. */
export interface TrainingSample {
  /** RGB, row-major, height × width × 3. */
  readonly pixels: Uint8Array;
  /** Empty where the training needs none. */
  readonly caption: string;
  /** Rows passed over on the way to this one because their pictures cannot be decoded. */
  readonly bad: readonly BadRow[];
}

/** An endless set; `sample` is a pure function of the index. */
export interface Dataset {
  readonly height: number;
  readonly width: number;
  /** @throws InfinityError INVALID_ARGUMENT when no sample can be made of any row */
  sample(index: number): Promise<TrainingSample>;
}

/** Which training the samples are for: each prepares pictures in its own way, and only one needs captions. */
export type Purpose = 'tokenizer' | 'transformer';
