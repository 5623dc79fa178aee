/**
 * Trains the transformer, and the small text encoder with it, on a frozen tokenizer: bitwise self-correction, cross entropy of
 * every bit, prompts dropped for guidance. Source: Infinity, trainer.py (train_step).
 */

import { type Batch, splitBatch } from '../data/batch.js';
import type { DatasetSource } from '../data/dataset.js';
import type { Device } from '../device.js';
import { type Checkpoint, writeCheckpoint } from '../io/checkpoint.js';
import { RandomStream, uniformDraw } from '../philox.js';
import type { Tensor } from '../tensor.js';
import { dropPathRates, tokenBits } from '../transformer/config.js';
import type { BitLoss } from '../transformer/head.js';
import { exportWeights } from './export_checkpoint.js';
import { AdamW, type StepRates } from './optimizer.js';
import { type RunOptions, runTraining, type StepEvent, type StepNumbers, type Trainee } from './run.js';
import { type MeasuredTokens, scaleMetrics } from './scale_metrics.js';
import { type RunStage, stageAt } from './stages.js';
import { openComponent, type Start } from './start.js';
import type { CacheReport } from './trainee.js';
import type { TransformerTrainingConfig } from './transformer_config.js';
import {
  buildParts,
  digestOf,
  type Parts,
  scheduleOf,
  TEXT_PREFIX,
  type TransformerStage,
  trained,
} from './transformer_parts.js';
import { TransformerUpdate } from './transformer_update.js';

export type { TransformerTrainingConfig } from './transformer_config.js';

async function readPass({ loss, perToken, correct }: BitLoss): Promise<MeasuredTokens & { readonly loss: number }> {
  const [[value], tokens, hits] = await Promise.all([loss, perToken, correct].map((t) => t.readFloats()));
  return { loss: value!, perToken: tokens!, correct: hits! };
}

/** One training of transformer and text encoder: its networks, its optimizer and its step. */
export class TransformerTrainer implements Trainee {
  private readonly updates: ReadonlyMap<RunStage, TransformerUpdate>;

  private constructor(
    private readonly parts: Parts,
    readonly optimizer: AdamW,
  ) {
    const updateOf = ({ config }: TransformerStage): TransformerUpdate => {
      const { self_correction: correction, reweight, checkpointing = false } = config;
      return new TransformerUpdate(parts.transformer, optimizer, { correction, reweight, checkpointing });
    };
    this.updates = new Map(parts.stages.map((stage) => [stage, updateOf(stage)]));
  }

  /**
   * @param tokenizer checkpoint with the trained visual tokenizer, which stays as it is and is exported along
   * @param init checkpoint whose transformer, text encoder and text tokenizer are the start; or weights of a transformer
   * @throws InfinityError INVALID_ARGUMENT, IO_ERROR, CHECKPOINT_INVALID, CHECKPOINT_CONFIG_MISMATCH
   */
  static async create(
    json: unknown,
    { device, tokenizer, init }: { device: Device; tokenizer: Checkpoint; init?: Start | undefined },
  ): Promise<TransformerTrainer> {
    const parts = await buildParts(json, { device, tokenizer, init });
    const { config } = parts;
    const optimizer = await AdamW.create(trained(parts), {
      betas: config.optimizer.betas,
      clip: config.optimizer.clip,
      emaDecay: config.optimizer.ema_decay,
    });
    return new TransformerTrainer(parts, optimizer);
  }

  get config(): TransformerTrainingConfig {
    return this.parts.config;
  }

  get device(): Device {
    return this.parts.device;
  }

  get source(): DatasetSource {
    return this.parts.stages[0]!.source;
  }

  get notices(): readonly string[] {
    return this.parts.notices;
  }

  get stages(): readonly RunStage[] {
    return this.parts.stages;
  }

  get cache(): CacheReport | undefined {
    const { pictures, captions } = this.parts;
    if (!pictures.counts && !captions.counts) return undefined;
    return {
      ...(pictures.counts && { pictures: pictures.counts }),
      ...(captions.counts && { captions: captions.counts }),
    };
  }

  weights(): Iterable<[string, Tensor]> {
    return trained(this.parts);
  }

  run(options: RunOptions): AsyncGenerator<StepEvent> {
    const { config, tokenizerDigest: tokenizer, text, frozenText } = this.parts;
    const state = {
      ...config,
      tokenizer,
      ...(text.digest === undefined ? {} : { text_tokenizer: text.digest }),
      ...(frozenText ? { frozen_text: digestOf(frozenText, 'text_encoder') } : {}),
    };
    return runTraining(this, state, options);
  }

  async step(batch: Batch, step: number, rates: StepRates): Promise<StepNumbers> {
    const stage = stageAt(this.parts.stages, step);
    const { accumulate = 1, always_training_scales } = stage.config;
    const trained = scheduleOf(stage, batch).slice(0, always_training_scales);
    const parts = splitBatch(batch, accumulate);
    const passes = parts.map((part) => this.pass(stage, part, step, 1 / parts.length));
    const norm = this.updates.get(stage)!.update(rates);
    try {
      const [gradNorm, ...measured] = await Promise.all([norm.readFloats(), ...passes.map(readPass)]);
      await Promise.all([this.parts.pictures.settle(), this.parts.captions.settle()]);
      const loss = measured.reduce((sum, pass) => sum + pass.loss, 0) / measured.length;
      const joined = (values: (m: MeasuredTokens) => ArrayLike<number>) =>
        measured.flatMap((m) => Array.from(values(m)));
      const tokens = { perToken: joined((m) => m.perToken), correct: joined((m) => m.correct) };
      const { all, scales } = scaleMetrics(tokens, trained, tokenBits(this.parts.transformer.config));
      const each = scales.map(({ bitAccuracy }, k) => [`scale${k}`, bitAccuracy] as const);
      const metrics = { accuracy: all.bitAccuracy, ...Object.fromEntries(each) };
      return { loss, gradNorm: gradNorm[0]!, metrics };
    } finally {
      for (const t of [norm, ...passes.flatMap((pass) => Object.values(pass) as Tensor[])]) t.dispose();
    }
  }

  /** Loss and gradients of a part of a batch. What is drawn for a sample depends on its number in the run alone. */
  private pass(stage: TransformerStage, batch: Batch, step: number, share: number): BitLoss {
    const { config, pictures, captions, transformer } = this.parts;
    const { text_dropout, always_training_scales } = stage.config;
    const { seed } = config;
    const update = this.updates.get(stage)!;
    const features_BHWd = pictures.of(batch);
    const draws = { seed, step, firstSample: batch.first };
    const micro = update.prepare(features_BHWd, scheduleOf(stage, batch), draws, always_training_scales);
    const draw = (sample: number, stream: number, element = 0, scale = 0): number =>
      uniformDraw(seed, { element, scale, image: batch.first + sample, stream });
    const dropText = batch.captions.map((_, b) => draw(b, RandomStream.dropText) < text_dropout);
    const dropPath = dropPathRates(transformer.config).map((rate, i) => {
      const keep = (branch: number): number[] =>
        batch.captions.map((_, b) => Number(draw(b, RandomStream.dropPath, branch, i) >= rate));
      return { sa: keep(0), ffn: keep(1) };
    });
    const out = update.accumulate(micro, share, () => ({ text: captions.of(batch), dropText, dropPath }));
    for (const t of [features_BHWd, micro.inputs_BLD, micro.labels_BLP]) t?.dispose();
    return out;
  }

  /** Writes the whole model: averaged weights, the tokenizer it was trained on, the text tokenizer, generation defaults. */
  async export(directory: string): Promise<void> {
    const { config, vae, transformer, textEncoder, text, frozenText } = this.parts;
    const averages = this.optimizer.averages();
    const frozen = frozenText && (await openComponent(frozenText, 'text_encoder'));
    try {
      await writeCheckpoint(directory, {
        components: {
          vae,
          transformer: { config: { ...transformer.config }, tensors: await exportWeights(transformer, averages) },
          text_encoder: frozen?.component ?? {
            config: { ...textEncoder.config },
            tensors: await exportWeights(textEncoder, averages, TEXT_PREFIX),
          },
        },
        tokenizer: text.tokenizer.json,
        generationConfig: config.generation,
      });
    } finally {
      await frozen?.close();
    }
  }

  dispose(): void {
    const { autoencoder, transformer, textEncoder } = this.parts;
    for (const update of this.updates.values()) update.dispose();
    this.optimizer.dispose();
    for (const module of [autoencoder, transformer, textEncoder]) module.dispose();
  }
}
