/**
 * The transformer's configuration, as it stands in `transformer/config.json` of a checkpoint, under the official option names,
 * and the published sizes. Source: Infinity, infinity/models/infinity.py.
 */
import { describe, InfinityError } from '../errors.js';
import {
  finestGrid,
  nearestTemplate,
  type ScaleSchedule,
  sameSchedule,
  templateSchedule,
  validateSchedule,
} from '../tokenizer/schedule.js';
import { type RopeMode, roundHalfEven } from './rope.js';

export interface InfinityConfig {
  /** Width C of the residual stream. */
  readonly embed_dim: number;
  readonly depth: number;
  readonly num_heads: number;
  readonly mlp_ratio: number;
  /** Groups that the blocks are named by; 1 means `blocks.N`, otherwise `block_chunks.I.module.J`. */
  readonly block_chunks: number;
  /** Width of the text features. */
  readonly text_channels: number;
  /** Rows of the learned unconditional text, hence the longest prompt. */
  readonly text_maxlen: number;
  /** Bits d of a tokenizer latent position. */
  readonly vae_embed_dim: number;
  /** Every token carries 2 × 2 latent positions, so 4 d bits. */
  readonly apply_spatial_patchify: boolean;
  /** One AdaLN projection for all blocks plus offsets per block; otherwise a projection per block. */
  readonly shared_aln: boolean;
  /** Add the scale's embedding once; otherwise before every chunk (before every block when there is one chunk). */
  readonly add_lvl_embeding_only_first_block: boolean;
  readonly rope2d_normalized_by_hw: RopeMode;
  readonly cos_attn: boolean;
  /** Divisor of the attention logits without cosine attention. */
  readonly tau: number;
  readonly norm_eps: number;
  readonly rms_norm: boolean;
  readonly swiglu: boolean;
  /** Normalise codes before `word_embed`. */
  readonly nm0: boolean;
  /** Two logits a bit, or for comparison one for each of the 2^D codes of a token of at most 16 bits. */
  readonly head: 'bitwise' | 'softmax';
  /** Linear layers of the classifier: 1, or 2 with a GELU between them. */
  readonly head_depth: number;
  /** Initial gain per channel on the cross attention's output; -1 for no such parameter. */
  readonly cross_attn_layer_scale: number;
  /** Largest drop path probability, reached at the last block. Training only. */
  readonly drop_path_rate: number;
  /** What the weights were trained on, when not the official buckets. */
  readonly scale_schedules?: readonly ScaleSchedule[];
}

/** The settings that every released model shares. */
const RELEASED = {
  mlp_ratio: 4,
  block_chunks: 1,
  text_channels: 2048,
  text_maxlen: 512,
  vae_embed_dim: 32,
  apply_spatial_patchify: false,
  shared_aln: true,
  add_lvl_embeding_only_first_block: true,
  rope2d_normalized_by_hw: 2,
  cos_attn: true,
  tau: 1,
  norm_eps: 1e-6,
  rms_norm: false,
  swiglu: false,
  nm0: false,
  head: 'bitwise',
  head_depth: 1,
  cross_attn_layer_scale: -1,
  drop_path_rate: 0,
} as const;

/** [depth, width, heads, chunks] of the published sizes. */
const SIZES = {
  infinity_layer12: [12, 768, 8, 4],
  infinity_layer16: [16, 1152, 12, 4],
  infinity_layer24: [24, 1536, 16, 4],
  infinity_layer32: [32, 2080, 20, 4],
  infinity_layer40: [40, 2688, 24, 4],
  infinity_layer48: [48, 3360, 28, 4],
  infinity_2b: [32, 2048, 16, 8],
  infinity_8b: [40, 3584, 28, 8],
  infinity_20b: [58, 4608, 36, 2],
} as const;
export type InfinitySize = keyof typeof SIZES;
export const INFINITY_SIZES = Object.keys(SIZES) as readonly InfinitySize[];

/** A published size with the released settings; drop path as its training used it is left to the trainer. */
export function officialInfinityConfig(size: InfinitySize, overrides: Partial<InfinityConfig> = {}): InfinityConfig {
  const [depth, embed_dim, num_heads, block_chunks] = SIZES[size];
  return { ...RELEASED, depth, embed_dim, num_heads, block_chunks, ...overrides };
}

/** Bits D of one transformer token. */
export function tokenBits(config: InfinityConfig): number {
  return config.vae_embed_dim * (config.apply_spatial_patchify ? 4 : 1);
}

/** Most bits of a token that the softmax head takes: 65,536 codes. */
export const MAX_SOFTMAX_BITS = 16;

/** Width of the feed-forward layer: a multiple of 256, halves to even; the plain width where that would be 0. */
export function ffnHidden(embed_dim: number, mlp_ratio: number): number {
  return roundHalfEven((embed_dim * mlp_ratio) / 256) * 256 || embed_dim;
}

/** Width of the gated feed-forward layer: two thirds of the plain one, again a multiple of 256; 0 where there is none. */
export function swigluHidden(embed_dim: number, mlp_ratio: number): number {
  return roundHalfEven((2 * roundHalfEven((embed_dim * mlp_ratio) / 256) * 256) / 3 / 256) * 256;
}

/** Drop path probability of every block, linear from 0, in the reference's float32. */
export function dropPathRates({ depth, drop_path_rate }: InfinityConfig): number[] {
  const last = Math.fround(drop_path_rate);
  const step = depth > 1 ? Math.fround(last / (depth - 1)) : 0;
  // The upper half counts down from the end, as torch.linspace does.
  return Array.from({ length: depth }, (_, i) => Math.fround(i < depth / 2 ? step * i : last - step * (depth - 1 - i)));
}

/** Rows and columns that the positions of `schedule` are stretched to: the largest trained schedule that begins with it. */
export function ropeFinest(config: InfinityConfig, schedule: ScaleSchedule): readonly [h: number, w: number] {
  const grid = finestGrid(schedule);
  const own = config.scale_schedules?.filter((s) => sameSchedule(s.slice(0, schedule.length), schedule)) ?? [];
  const longest = own.reduce<ScaleSchedule>((best, s) => (s.length > best.length ? s : best), schedule);
  if (config.scale_schedules) return finestGrid(longest);
  return finestGrid(templateSchedule(nearestTemplate(...grid), '1M'));
}

const POSITIVE = ['embed_dim', 'depth', 'num_heads', 'block_chunks', 'text_channels', 'text_maxlen'] as const;
const FLAGS = [
  'apply_spatial_patchify',
  'shared_aln',
  'add_lvl_embeding_only_first_block',
  'cos_attn',
  'rms_norm',
  'swiglu',
  'nm0',
] as const;
const NUMBERS = ['mlp_ratio', 'tau', 'norm_eps', 'cross_attn_layer_scale', 'drop_path_rate'] as const;
/** Options of the reference that must have this value: nothing released was trained otherwise. */
const FIXED = { rope2d_each_sa_layer: 1, use_bit_label: 1, head_aln: 1 } as const;

/**
 * Checks a parsed `transformer/config.json`. Options left out take the released models' values; unknown ones are ignored.
 * @throws InfinityError CHECKPOINT_INVALID naming the option and the value
 */
export function parseInfinityConfig(json: unknown): InfinityConfig {
  const given = (typeof json === 'object' && json !== null ? json : {}) as Readonly<Record<string, unknown>>;
  const refuse = (option: string, expected: string): never => {
    throw new InfinityError(
      'CHECKPOINT_INVALID',
      `Expected ${expected} for '${option}' of the transformer's config but received ${describe(given[option])}.`,
      {
        value: given[option],
        fields: { option },
        cure: 'Restore transformer/config.json as the checkpoint was saved.',
      },
    );
  };
  const config: Record<string, unknown> = { ...RELEASED };
  for (const key of [...POSITIVE, 'vae_embed_dim', 'head_depth']) {
    const value = given[key] ?? config[key];
    if (!Number.isInteger(value) || Number(value) < 1 || Number(value) > 2 ** 20) refuse(key, 'a positive integer');
    config[key] = value;
  }
  for (const key of NUMBERS) {
    const value = given[key] ?? config[key];
    if (typeof value !== 'number' || !Number.isFinite(value)) refuse(key, 'a number');
    config[key] = value;
  }
  for (const key of FLAGS) {
    const value = given[key] ?? config[key];
    if (value !== true && value !== false && value !== 0 && value !== 1) refuse(key, 'true or false');
    config[key] = Boolean(value);
  }
  for (const [key, value] of Object.entries(FIXED))
    if (given[key] !== undefined && Number(given[key]) !== value) refuse(key, `${value}`);
  const mode = given.rope2d_normalized_by_hw ?? config.rope2d_normalized_by_hw;
  if (mode !== 0 && mode !== 1 && mode !== 2) refuse('rope2d_normalized_by_hw', '0, 1 or 2');
  config.rope2d_normalized_by_hw = mode;
  const head = given.head ?? config.head;
  if (head !== 'bitwise' && head !== 'softmax') refuse('head', "'bitwise' or 'softmax'");
  config.head = head;
  const schedules = given.scale_schedules;
  if (schedules !== undefined) {
    if (!Array.isArray(schedules) || schedules.length === 0) refuse('scale_schedules', 'a list of schedules');
    config.scale_schedules = (schedules as unknown[]).map((s, i) => validateSchedule(s, `scale_schedules[${i}]`));
  }
  const parsed = config as unknown as InfinityConfig;
  const { embed_dim, num_heads, depth, text_channels } = parsed;
  if (embed_dim % num_heads !== 0 || (embed_dim / num_heads) % 4 !== 0)
    refuse('num_heads', `a divisor of ${embed_dim} that leaves heads of a multiple of 4`);
  if (depth % parsed.block_chunks !== 0) refuse('block_chunks', `a divisor of ${depth}`);
  if (parsed.head_depth > 2) refuse('head_depth', '1 or 2');
  if (parsed.head === 'softmax' && tokenBits(parsed) > MAX_SOFTMAX_BITS)
    refuse('head', `'bitwise' for tokens of ${tokenBits(parsed)} bits (a softmax takes at most ${MAX_SOFTMAX_BITS})`);
  const poolHeads = Math.floor(text_channels / (embed_dim <= 4096 ? 128 : 64));
  if (poolHeads < 1 || embed_dim % poolHeads !== 0)
    refuse('text_channels', `a width whose pooling heads (one per 128) divide ${embed_dim} evenly`);
  if (parsed.swiglu && swigluHidden(embed_dim, parsed.mlp_ratio) === 0)
    refuse('mlp_ratio', 'a ratio that leaves the gated feed-forward layer some width');
  if (!(parsed.tau > 0)) refuse('tau', 'a positive number');
  if (!(parsed.drop_path_rate >= 0 && parsed.drop_path_rate < 1)) refuse('drop_path_rate', 'a number from 0 below 1');
  const tokens = given.d_vae;
  if (tokens !== undefined && tokens !== tokenBits(parsed)) refuse('d_vae', `${tokenBits(parsed)}`);
  return parsed;
}
