/** What frozen networks compute from pictures and captions, kept between epochs and between runs. */
import { BlobCache, type Lookup } from '../io/blob_cache.js';

/** Where features lie and which: plain data for the thread that looks them up. */
export interface FeatureStore {
  readonly directory: string;
  /** Everything but the picture or the caption that decides them: weights, preparation, arithmetic. One line. */
  readonly scope: string;
}

/** Looks features up. */
export interface StoredFeatures {
  /** @param sha256 of the picture's file */
  ofPicture(sha256: string, size: readonly [height: number, width: number]): Promise<Lookup>;
  ofCaption(caption: string): Promise<Lookup>;
}

/** The features of a store, for reading. */
export function openFeatures({ directory, scope }: FeatureStore): StoredFeatures {
  const cache = new BlobCache(directory);
  return {
    ofPicture: (sha256, [height, width]) => cache.read(`${scope}\n${sha256} ${height}x${width}`),
    ofCaption: (caption) => cache.read(`${scope}\n${caption}`),
  };
}
