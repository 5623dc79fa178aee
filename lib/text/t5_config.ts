/** Configuration and position buckets of the T5 encoder, under the names of the Hugging Face config.json. */
import { describe, InfinityError } from '../errors.js';

/** Widths and depths of the encoder. */
export interface T5Config {
  readonly d_model: number;
  /** Channels of one head; num_heads · d_kv need not be d_model. */
  readonly d_kv: number;
  readonly num_heads: number;
  readonly d_ff: number;
  readonly num_layers: number;
  readonly vocab_size: number;
  readonly relative_attention_num_buckets: number;
  readonly relative_attention_max_distance: number;
  readonly layer_norm_epsilon: number;
}

/** flan-t5-xl, the encoder of all released models. */
export const FLAN_T5_XL: T5Config = {
  d_model: 2048,
  d_kv: 64,
  num_heads: 32,
  d_ff: 5120,
  num_layers: 24,
  vocab_size: 32128,
  relative_attention_num_buckets: 32,
  relative_attention_max_distance: 128,
  layer_norm_epsilon: 1e-6,
};

/**
 * Checks a parsed `text_encoder/config.json`.
 * @throws InfinityError CHECKPOINT_INVALID naming the option and the value
 */
export function parseT5Config(json: unknown): T5Config {
  const given = (typeof json === 'object' && json !== null ? json : {}) as Readonly<Record<string, unknown>>;
  const refuse = (option: string, expected: string): never => {
    throw new InfinityError(
      'CHECKPOINT_INVALID',
      `Expected ${expected} for '${option}' of the text encoder's config but received ${describe(given[option])}.`,
      {
        value: given[option],
        fields: { option },
        cure: 'Restore text_encoder/config.json as the checkpoint was saved.',
      },
    );
  };
  const optional = ['relative_attention_num_buckets', 'relative_attention_max_distance', 'layer_norm_epsilon'];
  const entries = Object.entries(FLAN_T5_XL).map(([key, standard]): [string, number] => {
    const value = given[key] ?? (optional.includes(key) ? standard : undefined);
    const ok = key === 'layer_norm_epsilon' ? Number(value) > 0 : Number.isInteger(value) && Number(value) >= 1;
    return [key, ok && typeof value === 'number' ? value : refuse(key, 'a positive number')];
  });
  const activation = given.feed_forward_proj;
  if (activation !== undefined && activation !== 'gated-gelu') refuse('feed_forward_proj', "'gated-gelu'");
  const config = Object.fromEntries(entries) as unknown as T5Config;
  if (config.relative_attention_num_buckets < 4) refuse('relative_attention_num_buckets', 'at least 4');
  return config;
}

type BucketOptions = Pick<T5Config, 'relative_attention_num_buckets' | 'relative_attention_max_distance'>;

/**
 * Bucket of key position minus query position: the first half for keys up to the query, the second for keys after it; within
 * a half, small distances have a bucket each and larger ones share buckets that grow logarithmically.
 */
export function relativePositionBucket(delta: number, options: BucketOptions): number {
  const half = Math.floor(options.relative_attention_num_buckets / 2);
  const exact = Math.floor(half / 2);
  const distance = Math.abs(delta);
  const side = delta > 0 ? half : 0;
  if (distance < exact) return side + distance;
  const f32 = Math.fround;
  // float32 step by step, as in the reference: the quotient of logarithms decides buckets at powers of two.
  const ratio = f32(f32(Math.log(f32(distance / exact))) / Math.log(options.relative_attention_max_distance / exact));
  return side + Math.min(half - 1, exact + Math.trunc(f32(ratio * (half - exact))));
}

/** Buckets of all pairs, [query, key] row-major. */
export function relativePositionBuckets(length: number, options: BucketOptions): Int32Array {
  const ofDelta = Array.from({ length: 2 * length - 1 }, (_, i) => relativePositionBucket(i - length + 1, options));
  const buckets = new Int32Array(length * length);
  for (let q = 0; q < length; q++)
    for (let k = 0; k < length; k++) buckets[q * length + k] = ofDelta[k - q + length - 1]!;
  return buckets;
}
