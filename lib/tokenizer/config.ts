/** The visual tokenizer's configuration, as it stands in `vae/config.json` of a checkpoint. */
import { InfinityError } from '../errors.js';

/** Widths and depths of encoder and decoder. */
export interface AutoencoderConfig {
  /** Bits per latent position, d. */
  readonly codebook_dim: number;
  readonly base_ch: number;
  readonly encoder_ch_mult: readonly number[];
  readonly decoder_ch_mult: readonly number[];
  readonly num_res_blocks: number;
  /** Pixels along one side of a latent position; a power of two. */
  readonly patch_size: number;
  /** Groups of every GroupNorm; by default the official 32 (24 for multiples of 24 only). */
  readonly norm_groups?: number;
}

/** The released tokenizers by their number of bits. Spec: infinity/models/bsq_vae/vae.py, vae_model. */
export function officialAutoencoderConfig(d: number): AutoencoderConfig {
  const stride8 = d === 14;
  const ch_mult = stride8 ? [1, 2, 4, 4] : [1, 2, 4, 4, 4];
  return {
    codebook_dim: d,
    base_ch: 128,
    encoder_ch_mult: ch_mult,
    decoder_ch_mult: ch_mult,
    num_res_blocks: 2,
    patch_size: stride8 ? 8 : 16,
  };
}

function isExtent(value: unknown, most: number): value is number {
  return Number.isInteger(value) && (value as number) >= 1 && (value as number) <= most;
}

/**
 * Checks a parsed `vae/config.json`.
 * @throws InfinityError CHECKPOINT_INVALID naming the field and the value
 */
export function parseAutoencoderConfig(json: unknown): AutoencoderConfig {
  const config = (typeof json === 'object' && json !== null ? json : {}) as Record<string, unknown>;
  const refuse = (field: string, expected: string): never => {
    throw new InfinityError(
      'CHECKPOINT_INVALID',
      `Expected ${expected} for '${field}' of the tokenizer's config but received ${JSON.stringify(config[field])}.`,
      { value: config[field], fields: { field }, cure: 'Restore vae/config.json as the checkpoint was saved.' },
    );
  };
  for (const field of ['codebook_dim', 'base_ch', 'num_res_blocks', 'patch_size'])
    if (!isExtent(config[field], 4096)) refuse(field, 'a positive integer');
  for (const field of ['encoder_ch_mult', 'decoder_ch_mult']) {
    const mult = config[field];
    if (!Array.isArray(mult) || mult.length === 0 || mult.length > 8 || !mult.every((m) => isExtent(m, 64)))
      refuse(field, 'a list of one to eight positive integers');
  }
  if (config.norm_groups !== undefined && !isExtent(config.norm_groups, 4096))
    refuse('norm_groups', 'a positive integer');
  const parsed = config as unknown as AutoencoderConfig;
  const downsamples = Math.log2(parsed.patch_size);
  // The decoder doubles before each level but its last.
  const reach = Math.min(parsed.encoder_ch_mult.length, parsed.decoder_ch_mult.length - 1);
  if (!Number.isInteger(downsamples) || downsamples > reach)
    refuse('patch_size', `a power of two up to ${2 ** reach}, which the levels reach,`);
  return parsed;
}
