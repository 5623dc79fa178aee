/** Trainings of six steps on models of a few hundred weights. */
import type { StepEvent, Training } from '../../lib/training/index.js';

export const optimizer = {
  lr: 0.003,
  lr_schedule: 'cos',
  warmup_iterations: 2,
  start_factor: 0.1,
  end_factor: 0.1,
  weight_decay: 0.01,
  betas: [0.9, 0.95],
  clip: 1,
  ema_decay: 0.9,
};
const common = {
  seed: 3,
  dataset: { kind: 'shapes', seed: 5, size: 16 },
  batch_size: 2,
  iterations: 6,
  optimizer,
  save_every: 2,
};
const mult = [1, 1, 1];
export const tokenizerConfig = {
  ...common,
  autoencoder: {
    codebook_dim: 4,
    base_ch: 8,
    encoder_ch_mult: mult,
    decoder_ch_mult: mult,
    num_res_blocks: 1,
    patch_size: 4,
    norm_groups: 2,
  },
  schedule: '1 2 4',
  loss: { l1: 1, l2: 1, quantizer: 1, commitment: 0.25, entropy: 0.1 },
  scale_dropout: 0.3,
};
export const transformerConfig = {
  ...common,
  transformer: { embed_dim: 16, depth: 2, num_heads: 2, block_chunks: 1, text_maxlen: 32, drop_path_rate: 0.2 },
  text_encoder: { d_model: 128, d_kv: 8, num_heads: 2, d_ff: 16, num_layers: 1 },
  self_correction: { layers: 3, strength: 0.3, requant: true },
  text_dropout: 0.3,
  reweight: true,
  generation: { guidance: 2, tau: 1 },
};

/** Hands a training on and disposes of it. */
export async function using<T, A extends { dispose(): void } = Training>(
  training: A,
  fn: (t: A) => Promise<T>,
): Promise<T> {
  try {
    return await fn(training);
  } finally {
    training.dispose();
  }
}

/** Runs until `stop` steps are done or the run ends. */
export async function runSome(
  training: Training,
  directory: string,
  stop = Number.POSITIVE_INFINITY,
): Promise<StepEvent[]> {
  const events: StepEvent[] = [];
  for await (const event of training.run({ directory })) {
    events.push(event);
    if (event.step >= stop) break;
  }
  return events;
}
