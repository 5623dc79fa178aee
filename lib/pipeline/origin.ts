/** What a request takes over from a picture. */
import type { Pixels } from '../io/pixels.js';
import type { Metadata } from '../io/png_metadata.js';
import type { BitTokens } from '../tokenizer/bit_file.js';
import { type KeptSums, keptSums } from '../tokenizer/kept.js';
import type { InfinityTransformer } from '../transformer/infinity.js';
import { blend } from './mask.js';

/** The part of a picture that stays wholly. */
export interface Region {
  readonly tokens: BitTokens;
  /** Its plain reconstruction. */
  readonly plain: Pixels;
  /** Latent positions that are drawn anew, [rows, columns], 1 or 0. */
  readonly redrawn: Uint8Array;
  /** How much of each pixel is drawn, 0 to 1. */
  readonly weights: Float32Array;
}

export interface Origin {
  /** Bits of each scale in token layout, for all pictures; see `SampleOptions.forced`. */
  readonly forced: readonly Uint8Array[];
  readonly region?: Region;
  /** What the metadata of the drawn pictures say of it. */
  readonly metadata: Metadata;
}

/** The running sums of a region for the sampler; they belong to the caller. */
export function sumsOf({ tokens, redrawn }: Region, transformer: InfinityTransformer): KeptSums {
  return keptSums(tokens.scales, tokens.schedule, redrawn, transformer);
}

/** A drawn picture with the region in its place. */
export function joined({ plain, weights }: Region, drawn: Pixels): Pixels {
  return blend(plain, drawn, weights);
}
