/** The small trainings that the experiments vary, all on the procedural set. */
import type { AutoencoderConfig } from '../../lib/tokenizer/config.js';
import type { QuantizerKind } from '../../lib/tokenizer/quantizer.js';
import type { OptimizerConfig } from '../../lib/training/config.js';
import type { TokenizerTrainingConfig, TransformerTrainingConfig } from '../../lib/training/index.js';
import type { InfinityConfig } from '../../lib/transformer/config.js';

/** Steps between two saved states: what a kill costs at most. */
const SAVE_EVERY = 250;

/** Grids of pictures of 32 and of 64 pixels at eight pixels a position. */
export const GRIDS = { 32: '1 2 3 4', 64: '1 2 3 4 6 8' } as const;
export type Side = keyof typeof GRIDS;

function optimizer(lr: number, betas: readonly [number, number], iterations: number): OptimizerConfig {
  return {
    lr,
    lr_schedule: 'cos',
    warmup_iterations: Math.ceil(iterations / 20),
    start_factor: 0.01,
    end_factor: 0.02,
    weight_decay: 0.01,
    betas,
    clip: 1,
    ema_decay: 0.99,
  };
}

/** What a tokenizer training is varied in. */
export interface TokenizerVariation {
  readonly shapes: AutoencoderConfig;
  readonly seed: number;
  readonly iterations: number;
  readonly quantizer?: QuantizerKind;
}

/** Weight of the entropies: what BSQ's loss divides by its inverse temperature, 100, LFQ's takes as it is. */
const ENTROPY = { bsq: 0.02, lfq: 0.0002 } as const;

/** Pictures of 32 pixels. */
export function tokenizerConfig({
  shapes,
  seed,
  iterations,
  quantizer = 'bsq',
}: TokenizerVariation): TokenizerTrainingConfig {
  return {
    seed,
    dataset: { kind: 'shapes', seed, size: 32 },
    autoencoder: shapes,
    quantizer,
    schedule: GRIDS[32],
    loss: { l1: 1, l2: 1, quantizer: 1, commitment: 0.25, entropy: ENTROPY[quantizer] },
    scale_dropout: 0.1,
    batch_size: 16,
    iterations,
    optimizer: optimizer(0.001, [0.9, 0.95], iterations),
    save_every: SAVE_EVERY,
  };
}

/** What a transformer training is varied in. */
export interface TransformerVariation {
  readonly seed: number;
  readonly iterations: number;
  readonly side?: Side;
  readonly batch?: number;
  readonly width?: number;
  readonly depth?: number;
  readonly strength?: number;
  readonly reweight?: boolean;
  readonly head?: InfinityConfig['head'];
}

export function transformerConfig(variation: TransformerVariation): TransformerTrainingConfig {
  const { seed, iterations, side = 32, batch = 32, width = 96, depth = 4, strength = 0.2, reweight = true } = variation;
  const { head = 'bitwise' } = variation;
  return {
    seed,
    dataset: { kind: 'shapes', seed: 1000 + seed, size: side },
    transformer: {
      embed_dim: width,
      depth,
      num_heads: width / 32,
      block_chunks: 1,
      text_maxlen: 64,
      drop_path_rate: 0,
      head,
    },
    text_encoder: {
      d_model: 128,
      d_kv: 32,
      num_heads: 2,
      d_ff: 128,
      num_layers: 1,
      relative_attention_num_buckets: 32,
      relative_attention_max_distance: 128,
      layer_norm_epsilon: 1e-6,
    },
    self_correction: { layers: strength > 0 ? GRIDS[side].split(' ').length : 0, strength, requant: true },
    text_dropout: 0.1,
    reweight,
    generation: { guidance: 3, tau: 0.5, top_k: 0, top_p: 0.97, size: [side, side] },
    batch_size: batch,
    iterations,
    optimizer: optimizer(0.002, [0.9, 0.97], iterations),
    save_every: SAVE_EVERY,
  };
}
