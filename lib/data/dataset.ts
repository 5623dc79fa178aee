/** A dataset is a pure function of (seed, index): the data cursor of a run is one integer. */
import { invalidArgument } from '../errors.js';
import { shapesSample } from './shapes/index.js';

/** One picture and its caption. */
export interface TrainingSample {
  /** RGB, row-major, height × width × 3. */
  readonly pixels: Uint8Array;
  readonly caption: string;
}

/** An endless set; `sample` is a pure function of the index. */
export interface Dataset {
  readonly height: number;
  readonly width: number;
  sample(index: number): TrainingSample;
}

/** What a worker thread needs to build its own copy of a dataset. */
export interface DatasetSpec {
  readonly kind: 'shapes';
  readonly seed: number;
  /** Pixels along one side. */
  readonly size: number;
}

/** @throws InfinityError INVALID_ARGUMENT naming the field */
export function openDataset(spec: DatasetSpec): Dataset {
  const { seed, size } = spec;
  if (spec.kind !== 'shapes') invalidArgument('dataset.kind', "'shapes'", spec.kind);
  if (!Number.isInteger(size) || size < 16 || size > 1024)
    invalidArgument('dataset.size', 'pixels from 16 to 1024', size);
  return {
    height: size,
    width: size,
    sample: (index) => shapesSample({ seed, index, size, split: 'train' }),
  };
}
