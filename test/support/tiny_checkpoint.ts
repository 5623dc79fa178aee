/** A complete checkpoint with random weights, small enough to be written, loaded and drawn from in milliseconds. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { grammarVocabulary } from '../../lib/data/shapes/index.js';
import { type CheckpointContent, type Component, type Config, writeCheckpoint } from '../../lib/io/checkpoint.js';
import { fromFloat32, type TensorData } from '../../lib/io/tensor_data.js';
import type { Module } from '../../lib/nn/module.js';
import { T5Encoder } from '../../lib/text/t5.js';
import { parseT5Config } from '../../lib/text/t5_config.js';
import { TextTokenizer } from '../../lib/text/tokenizer.js';
import { buildUnigramVocabulary } from '../../lib/text/vocabulary.js';
import { Autoencoder } from '../../lib/tokenizer/autoencoder.js';
import { parseAutoencoderConfig } from '../../lib/tokenizer/config.js';
import { parseGrids } from '../../lib/tokenizer/schedule.js';
import { parseInfinityConfig } from '../../lib/transformer/config.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { randomArray } from './numeric.js';

/** Square pictures are the default size; wide ones have fewer tokens. */
export const TINY_SIZES = [
  [16, 16],
  [8, 16],
] as const;
export const TINY_SCALES = 3;
export const TINY_TOKENS = 24;

const transformer = {
  ...{ embed_dim: 32, depth: 2, num_heads: 2, block_chunks: 1, text_channels: 128, text_maxlen: TINY_TOKENS },
  vae_embed_dim: 8,
  scale_schedules: ['1 2 4', '1 1x2 2x4'].map(parseGrids),
};
const vae = {
  ...{ codebook_dim: 8, base_ch: 8, encoder_ch_mult: [1, 1, 2], decoder_ch_mult: [1, 1, 2], num_res_blocks: 1 },
  ...{ patch_size: 4, norm_groups: 4, scale_schedule: '1 2 4' },
};

/** Weights as far from the careful initial ones as trained ones are, so that every input has an effect on the picture. */
function lively(name: string, size: number, seed: number): Float32Array | undefined {
  return /norm\.weight$|zero_k_bias|scale_mul/.test(name) ? undefined : Float32Array.from(randomArray(seed, size, 0.4));
}

async function component(module: Module, config: Config, seed: number): Promise<Component> {
  module.initialize(seed);
  try {
    const state = await module.stateDict();
    const tensors = [...state].map(([name, { shape, data }], i): [string, TensorData] => {
      const values = module instanceof InfinityTransformer ? lively(name, data.length, i) : undefined;
      return [name, fromFloat32(values ?? data, shape, 'BF16')];
    });
    return { config, tensors: new Map(tensors) };
  } finally {
    module.dispose();
  }
}

/** What the tiny checkpoint holds; tests change parts of it to make broken ones. */
export async function tinyContent(): Promise<CheckpointContent> {
  const tokenizer = buildUnigramVocabulary(grammarVocabulary());
  const text = {
    ...{ d_model: 128, d_kv: 16, num_heads: 2, d_ff: 64, num_layers: 1 },
    vocab_size: new TextTokenizer(tokenizer).vocabularySize,
  };
  return {
    components: {
      transformer: await component(new InfinityTransformer(parseInfinityConfig(transformer)), transformer, 1),
      vae: await component(new Autoencoder(parseAutoencoderConfig(vae)), vae, 2),
      text_encoder: await component(new T5Encoder(parseT5Config(text)), text, 3),
    },
    generationConfig: { guidance: 2, tau: 1, top_k: 0, top_p: 0, size: [16, 16] },
    tokenizer,
  };
}

const patchified = { ...transformer, apply_spatial_patchify: true, scale_schedules: ['1 1x2 2'].map(parseGrids) };
const patchifiedWeights = await component(new InfinityTransformer(parseInfinityConfig(patchified)), patchified, 4);

/** The same checkpoint with a transformer whose tokens hold 2 x 2 latent positions. */
export function tinyPatchified(content: CheckpointContent): CheckpointContent {
  return { ...content, components: { ...content.components, transformer: patchifiedWeights } };
}

let content: Promise<CheckpointContent> | undefined;

/** Writes the tiny checkpoint, with `change` applied, into a folder of its own. `remove` deletes it. */
export async function tinyCheckpoint(
  change: (content: CheckpointContent) => CheckpointContent = (same) => same,
): Promise<{ readonly directory: string; readonly folder: string; remove(): Promise<void> }> {
  content ??= tinyContent();
  const folder = await mkdtemp(join(tmpdir(), 'tiny-checkpoint-'));
  const directory = join(folder, 'model');
  await writeCheckpoint(directory, change(await content));
  return { directory, folder, remove: () => rm(folder, { recursive: true, force: true }) };
}
