/** Features of pictures by the frozen tokenizer, cached. */
import type { Batch } from '../data/batch.js';
import type { FeatureStore } from '../data/feature_store.js';
import type { Device } from '../device.js';
import type { BlobCache } from '../io/blob_cache.js';
import { loadImageCodec } from '../io/image.js';
import { scope, type Tensor } from '../tensor.js';
import type { Autoencoder } from '../tokenizer/autoencoder.js';
import { CachedFeatures, featureStore } from './cached_features.js';
import { picturesOf } from './tokenizer_trainer.js';
import type { CacheCounts } from './trainee.js';

/** Counted up whenever the same picture, codec and weights would give other features. */
const PREPARATION = 1;

/**
 * Where the features of a tokenizer lie in a cache.
 * @param tokenizer digest of its weights
 */
export async function pictureStore(cache: BlobCache, device: Device, tokenizer: string): Promise<FeatureStore> {
  const { versions } = await loadImageCodec();
  return featureStore(cache, device, ['picture features', PREPARATION, versions, tokenizer]);
}

/** Gives the features of batches. */
export class PictureFeatures {
  private readonly cached: CachedFeatures | undefined;

  constructor(
    private readonly autoencoder: Autoencoder,
    private readonly device: Device,
    cache: BlobCache | undefined,
  ) {
    this.cached = cache && new CachedFeatures(cache, device);
  }

  get counts(): CacheCounts | undefined {
    return this.cached?.counts;
  }

  /**
   * The same bits with and without a cache: the encoder computes a picture alike in every batch.
   * @returns features_BHWd of every picture of a batch
   */
  of(batch: Batch): Tensor {
    const { size, features: entries } = batch;
    if (!entries || !this.cached) return this.compute(batch);
    const { patch_size, codebook_dim } = this.autoencoder.config;
    const row = [size[0] / patch_size, size[1] / patch_size, codebook_dim];
    const compute = (missing: readonly number[]) => ({
      rows: this.compute(picked(batch, missing)),
      lens: missing.map(() => 1),
    });
    return this.cached.of(entries, row, compute).rows;
  }

  /** Ends when everything that was computed is kept. */
  async settle(): Promise<void> {
    await this.cached?.settle();
  }

  private compute(batch: Batch): Tensor {
    return scope(() => this.autoencoder.encode(picturesOf(batch, this.device)));
  }
}

/** Some pictures of a batch. */
function picked(batch: Batch, chosen: readonly number[]): Batch {
  const bytes = batch.size[0] * batch.size[1] * 3;
  const pixels = new Uint8Array(chosen.length * bytes);
  for (const [at, i] of chosen.entries()) pixels.set(batch.pixels.subarray(i * bytes, (i + 1) * bytes), at * bytes);
  return { ...batch, pixels, captions: chosen.map((i) => batch.captions[i]!) };
}
