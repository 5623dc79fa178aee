/** The model that the package embeds, or one of its shapes with random weights, which is as fast. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Batch, drawBatch } from '../lib/data/batch.js';
import { findDataset, openDataset } from '../lib/data/dataset.js';
import { Device } from '../lib/device.js';
import { InfinityError } from '../lib/errors.js';
import { Checkpoint } from '../lib/io/checkpoint.js';
import { packageRoot } from '../lib/native.js';
import { parseGrids, type ScaleSchedule } from '../lib/tokenizer/schedule.js';
import { type RunConfig, readConfigFile } from '../lib/training/config.js';
import {
  TokenizerTrainer,
  type TokenizerTrainingConfig,
  TransformerTrainer,
  type TransformerTrainingConfig,
} from '../lib/training/index.js';
import { type InfinityConfig, parseInfinityConfig } from '../lib/transformer/config.js';

const MODEL = join(packageRoot(), 'models', 'shapes');

/** The configs of the last runs that trained the embedded model. */
export async function trainingConfigs(): Promise<{
  readonly tokenizer: TokenizerTrainingConfig;
  readonly transformer: TransformerTrainingConfig;
}> {
  const read = (name: string) => readConfigFile(join(MODEL, 'train', name));
  return {
    tokenizer: (await read('tokenizer-3.json')) as TokenizerTrainingConfig,
    transformer: (await read('transformer-9.json')) as TransformerTrainingConfig,
  };
}

/** The embedded transformer's shapes. */
export async function embeddedShapes(): Promise<{
  readonly config: InfinityConfig;
  readonly schedule: ScaleSchedule;
  readonly batch: number;
}> {
  const { tokenizer, transformer } = await trainingConfigs();
  const schedule = parseGrids(transformer.scale_schedules?.[0] ?? tokenizer.schedule);
  const config = parseInfinityConfig({
    ...transformer.transformer,
    vae_embed_dim: tokenizer.autoencoder.codebook_dim,
    text_channels: (transformer.text_encoder as { readonly d_model: number }).d_model,
    scale_schedules: [schedule],
  });
  return { config, schedule, batch: transformer.batch_size };
}

export interface EmbeddedModel {
  readonly directory: string;
  /** Which of the two it is, for the results. */
  readonly weights: 'embedded' | 'random';
  /** Deletes what was written. */
  remove(): Promise<void>;
}

/** Writes a checkpoint of the embedded model's shapes with the weights that training starts from. */
async function randomModel(): Promise<EmbeddedModel> {
  const folder = await mkdtemp(join(tmpdir(), 'node-infinity-benchmark-'));
  const device = Device.create();
  try {
    const configs = await trainingConfigs();
    const tokenizer = await TokenizerTrainer.create(configs.tokenizer, { device });
    await tokenizer.export(join(folder, 'tokenizer'));
    tokenizer.dispose();
    const checkpoint = await Checkpoint.open(join(folder, 'tokenizer'));
    const transformer = await TransformerTrainer.create(configs.transformer, { device, tokenizer: checkpoint });
    const directory = join(folder, 'model');
    await transformer.export(directory);
    transformer.dispose();
    return { directory, weights: 'random', remove: () => rm(folder, { recursive: true, force: true }) };
  } finally {
    device.close();
  }
}

export async function embeddedModel(): Promise<EmbeddedModel> {
  try {
    await Checkpoint.open(MODEL);
    return { directory: MODEL, weights: 'embedded', remove: async () => undefined };
  } catch (error) {
    if (!(error instanceof InfinityError) || error.code !== 'MODEL_NOT_FOUND') throw error;
    return randomModel();
  }
}

/** A batch of the procedural set, as a training's loader draws it. */
export async function trainingBatch({ dataset, batch_size }: RunConfig, step: number): Promise<Batch> {
  const source = await findDataset(dataset, 'transformer');
  return drawBatch(openDataset(source), { first: step * batch_size, count: batch_size });
}
