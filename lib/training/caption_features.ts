/** Features of captions by the text encoder; those of a frozen one are cached. */
import type { Batch } from '../data/batch.js';
import type { FeatureStore } from '../data/feature_store.js';
import type { Device } from '../device.js';
import type { BlobCache } from '../io/blob_cache.js';
import type { T5Encoder } from '../text/t5.js';
import type { TextTokenizer } from '../text/tokenizer.js';
import type { TextFeatures } from '../transformer/text.js';
import { CachedFeatures, featureStore } from './cached_features.js';
import type { CacheCounts } from './trainee.js';

/** Counted up whenever the same caption, text tokenizer and weights would give other features. */
const ENCODING = 1;

/** What decides the features of a caption. */
export interface TextDigests {
  /** Of the frozen text encoder's weights. */
  readonly encoder: string;
  /** Of the text tokenizer's file. */
  readonly tokenizer: string;
  /** Tokens that a caption is cut to. */
  readonly maxLength: number;
}

/** Where the features of a frozen text encoder lie in a cache. */
export function captionStore(
  cache: BlobCache,
  device: Device,
  { encoder, tokenizer, maxLength }: TextDigests,
): FeatureStore {
  return featureStore(cache, device, ['caption features', ENCODING, encoder, tokenizer, maxLength]);
}

/** Gives the features of batches. */
export class CaptionFeatures {
  private readonly cached: CachedFeatures | undefined;

  /** @param cache none where the encoder is trained */
  constructor(
    private readonly tokenizer: TextTokenizer,
    private readonly encoder: T5Encoder,
    private readonly maxLength: number,
    cache: BlobCache | undefined,
  ) {
    this.cached = cache && new CachedFeatures(cache, encoder.device);
  }

  get counts(): CacheCounts | undefined {
    return this.cached?.counts;
  }

  /** The same bits with and without a cache: the encoder computes a caption alike in every batch. */
  of({ captions, textFeatures: entries }: Pick<Batch, 'captions' | 'textFeatures'>): TextFeatures {
    if (!entries || !this.cached) return this.encode(captions);
    const { rows, lens } = this.cached.of(entries, [this.encoder.config.d_model], (missing) => {
      const { kv_NCt, lens } = this.encode(missing.map((i) => captions[i]!));
      return { rows: kv_NCt, lens };
    });
    return { kv_NCt: rows, lens };
  }

  /** Ends when everything that was computed is kept. */
  async settle(): Promise<void> {
    await this.cached?.settle();
  }

  private encode(captions: readonly string[]): TextFeatures {
    const { maxLength } = this;
    return this.encoder.encode(captions.map((caption) => this.tokenizer.encode(caption, { maxLength }).ids));
  }
}
