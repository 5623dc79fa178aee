/** Features of pictures by the frozen tokenizer: out of the cache where it has them, computed and kept where it does not. */
import type { Batch } from '../data/batch.js';
import type { FeatureStore } from '../data/feature_store.js';
import type { Device } from '../device.js';
import type { BlobCache } from '../io/blob_cache.js';
import { loadImageCodec } from '../io/image.js';
import { cat, slice } from '../ops/shape.js';
import { scope, Tensor } from '../tensor.js';
import type { Autoencoder } from '../tokenizer/autoencoder.js';
import { picturesOf } from './tokenizer_trainer.js';
import type { CacheCounts } from './trainee.js';

/** Counted up whenever the same picture, codec and weights would give other features. */
const PREPARATION = 1;

/**
 * Where the features of a tokenizer lie in a cache.
 * @param tokenizer digest of its weights
 */
export async function featureStore(cache: BlobCache, tokenizer: string, device: Device): Promise<FeatureStore> {
  const { versions } = await loadImageCodec();
  // Another instruction set rounds otherwise, and a run must not depend on whether it has a cache.
  const { backend } = device.stats();
  const what = ['picture features', PREPARATION, versions, tokenizer, backend];
  return { directory: cache.directory, scope: JSON.stringify(what) };
}

/** Gives the features of batches. */
export class PictureFeatures {
  readonly counts: CacheCounts = { read: 0, computed: 0, damaged: 0 };
  private writing: Promise<void> = Promise.resolve();

  constructor(
    private readonly autoencoder: Autoencoder,
    private readonly device: Device,
    private readonly cache: BlobCache | undefined,
  ) {}

  /**
   * The same bits with and without a cache: the encoder computes a picture alike in every batch.
   * @returns features_BHWd of every picture of a batch
   */
  of(batch: Batch): Tensor {
    const { features: entries } = batch;
    if (!entries || !this.cache) return scope(() => this.autoencoder.encode(picturesOf(batch, this.device)));
    const missing = entries.flatMap(({ bytes }, i) => (bytes ? [] : [i]));
    this.counts.read += entries.length - missing.length;
    this.counts.computed += missing.length;
    this.counts.damaged += entries.filter(({ damaged }) => damaged).length;
    return scope(() => {
      const computed = missing.length > 0 ? this.compute(batch, missing) : undefined;
      const rows = entries.map(({ bytes }, i) =>
        bytes ? this.stored(batch, bytes) : slice(computed!, 0, missing.indexOf(i), missing.indexOf(i) + 1),
      );
      if (computed)
        this.keep(
          computed,
          missing.map((i) => entries[i]!.key),
        );
      return rows.length === 1 ? rows[0]! : cat(rows, 0);
    });
  }

  /** Ends when everything that was computed is kept. */
  async settle(): Promise<void> {
    await this.writing;
  }

  private compute(batch: Batch, missing: readonly number[]): Tensor {
    const bytes = batch.size[0] * batch.size[1] * 3;
    const pixels = new Uint8Array(missing.length * bytes);
    for (const [at, i] of missing.entries()) pixels.set(batch.pixels.subarray(i * bytes, (i + 1) * bytes), at * bytes);
    const captions = missing.map((i) => batch.captions[i]!);
    return this.autoencoder.encode(picturesOf({ ...batch, pixels, captions }, this.device));
  }

  private stored({ size: [height, width] }: Batch, bytes: Uint8Array): Tensor {
    const { patch_size, codebook_dim } = this.autoencoder.config;
    const shape = [1, height / patch_size, width / patch_size, codebook_dim];
    return Tensor.from(new Float32Array(bytes.buffer), shape, 'f32', this.device);
  }

  private keep(features_BHWd: Tensor, keys: readonly string[]): void {
    const read = features_BHWd.readFloats();
    this.writing = this.writing.then(async () => {
      const values = Float32Array.from(await read);
      const each = values.length / keys.length;
      for (const [i, key] of keys.entries())
        await this.cache!.write(key, new Uint8Array(values.buffer, i * each * 4, each * 4));
      const { writeFailure } = this.cache!;
      if (writeFailure) this.counts.failure = writeFailure.message;
    });
    // A failure of the device is told by the step that it belongs to.
    this.writing = this.writing.catch(() => undefined);
  }
}
