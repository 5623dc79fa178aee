/** A dataset is a pure function of (seed, index): the data cursor of a run is one integer. */
import { loadImageCodec } from '../io/image.js';
import { type FeatureStore, openFeatures } from './feature_store.js';
import { FileDigests } from './file_digests.js';
import { type Listing, listPictures } from './listing.js';
import { PictureDataset } from './picture_dataset.js';
import type { Dataset, Purpose } from './sample.js';
import { shapesSample } from './shapes/index.js';
import { checkDatasetSpec, type DatasetSpec, type ShapesSpec } from './spec.js';

/** A dataset as it was found: plain data that gives the same samples in every thread. */
export interface DatasetSource {
  readonly spec: DatasetSpec;
  readonly purpose: Purpose;
  /** Absent in the procedural set, which needs no files. */
  readonly listing?: Listing;
  /** What is computed from its pictures and kept; the procedural set is drawn faster than read. */
  readonly features?: FeatureStore;
  /** What is computed from its captions and kept. */
  readonly textFeatures?: FeatureStore;
}

/**
 * Looks at the files of a dataset.
 * @param digests of files, where some are known
 * @throws InfinityError INVALID_ARGUMENT naming the field, IO_ERROR when its path cannot be read
 */
export async function findDataset(
  json: DatasetSpec,
  purpose: Purpose,
  digests = new FileDigests(),
): Promise<DatasetSource> {
  const spec = checkDatasetSpec({ ...json });
  if (spec.kind === 'shapes') return { spec, purpose };
  // A library that a worker thread opened first would be closed with that thread.
  await loadImageCodec();
  return { spec, purpose, listing: await listPictures(spec, purpose === 'transformer', digests) };
}

/** Where the files of some datasets lie, each path once, in their order. */
export function pathsOf(sources: readonly DatasetSource[]): string[] {
  return [...new Set(sources.flatMap(({ spec }) => (spec.kind === 'shapes' ? [] : [spec.path])))];
}

function shapesDataset({ seed, size }: ShapesSpec): Dataset {
  return {
    sizeOf: () => [size, size],
    sample: async (index) => {
      const { pixels, caption } = shapesSample({ seed, index, size, split: 'train' });
      return { pixels, caption, bad: [] };
    },
  };
}

function withTextFeatures(dataset: Dataset, store: FeatureStore): Dataset {
  const features = openFeatures(store);
  return {
    sizeOf: (batch) => dataset.sizeOf(batch),
    sample: async (index, batch) => {
      const sample = await dataset.sample(index, batch);
      return { ...sample, textFeatures: await features.ofCaption(sample.caption) };
    },
  };
}

/** The samples of a dataset that was found. */
export function openDataset({ spec, purpose, listing, features, textFeatures }: DatasetSource): Dataset {
  const dataset = spec.kind === 'shapes' ? shapesDataset(spec) : new PictureDataset(spec, purpose, listing!, features);
  return textFeatures ? withTextFeatures(dataset, textFeatures) : dataset;
}
