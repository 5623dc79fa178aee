/**
 * Trains the transformer, and the small text encoder with it, on a frozen tokenizer: bitwise self-correction, cross entropy of
 * every bit, prompts dropped for guidance. Source: Infinity, trainer.py (train_step).
 */

import type { Batch } from '../data/batch.js';
import { type DatasetSource, findDataset } from '../data/dataset.js';
import type { Device } from '../device.js';
import { invalidArgument } from '../errors.js';
import { type Checkpoint, type Component, writeCheckpoint } from '../io/checkpoint.js';
import { placed } from '../nn/module.js';
import { slice } from '../ops/shape.js';
import { RandomStream, uniformDraw } from '../philox.js';
import { Tape } from '../tape.js';
import { scope, Tensor } from '../tensor.js';
import { T5Encoder } from '../text/t5.js';
import { parseT5Config, type T5Config } from '../text/t5_config.js';
import { Autoencoder } from '../tokenizer/autoencoder.js';
import { parseAutoencoderConfig } from '../tokenizer/config.js';
import { parseGrids, type ScaleSchedule, scaleOffsets, tokenCount } from '../tokenizer/schedule.js';
import { dropPathRates, type InfinityConfig, parseInfinityConfig, tokenBits } from '../transformer/config.js';
import { InfinityTransformer } from '../transformer/infinity.js';
import {
  checkPictureSize,
  checkRunConfig,
  integer,
  number,
  object,
  optional,
  type Rule,
  type RunConfig,
  readPart,
} from './config.js';
import { exportWeights, loadComponent } from './export_checkpoint.js';
import { AdamW, type StepRates } from './optimizer.js';
import { type RunOptions, runTraining, type StepEvent, type StepNumbers, type Trainee } from './run.js';
import { BitwiseSelfCorrection, isStrength, type SelfCorrected, type SelfCorrectionConfig } from './self_correction.js';
import { chooseTextTokenizer, type TextTokenizerChoice } from './text_tokenizer.js';
import { picturesOf } from './tokenizer_trainer.js';

/** What a config file of `train transformer` holds. */
export interface TransformerTrainingConfig extends RunConfig {
  readonly transformer: Partial<InfinityConfig>;
  /** `vocab_size` follows from the text tokenizer. */
  readonly text_encoder: Omit<T5Config, 'vocab_size'>;
  /** Most words of the captions that are tokens of their own; 8192 by default. */
  readonly vocabulary_limit?: number;
  readonly self_correction: SelfCorrectionConfig;
  /** Share of prompts that are replaced by the unconditional rows; official 0.1. */
  readonly text_dropout: number;
  /** How many scales, from the first on, are learned; all by default. Later ones keep the weights that `init` gave them. */
  readonly always_training_scales?: number;
  /** Tokens weigh by the square root of their scale's area. */
  readonly reweight: boolean;
  /** Defaults of generation that the checkpoint will carry. */
  readonly generation: Readonly<Record<string, unknown>>;
}

const isFlag = (v: unknown): boolean => typeof v === 'boolean';

const RULES: readonly Rule[] = [
  object('transformer'),
  object('text_encoder'),
  optional(integer('vocabulary_limit', 1)),
  integer('self_correction.layers', 0),
  ['self_correction.strength', 'a share from 0 to 1 or a list of them', isStrength],
  ['self_correction.requant', 'true or false', isFlag],
  number('text_dropout', 0, 1),
  optional(integer('always_training_scales', 2)),
  ['reweight', 'true or false', isFlag],
  object('generation'),
];

/** The checked configuration. The reader of checkpoints passes over options that it does not know; a training must not. */
function transformerConfig(given: object, derived: Partial<InfinityConfig>): InfinityConfig {
  const config = readPart('transformer', () => parseInfinityConfig({ ...given, ...derived }));
  for (const [option, value] of Object.entries(given)) {
    if (option in derived)
      invalidArgument(
        `transformer.${option}`,
        'nothing',
        value,
        'Leave it out: it follows from the tokenizer or the text.',
      );
    if (!(option in config)) invalidArgument(`transformer.${option}`, 'no such option', value, 'Correct its name.');
  }
  return config;
}

interface Parts {
  readonly config: TransformerTrainingConfig;
  readonly source: DatasetSource;
  readonly autoencoder: Autoencoder;
  readonly vae: Component;
  /** Part of the run's state: bits of another tokenizer mean nothing to this transformer. */
  readonly tokenizerDigest: string;
  readonly transformer: InfinityTransformer;
  readonly textEncoder: T5Encoder;
  readonly text: TextTokenizerChoice;
  /** Of the tokenizer. */
  readonly schedule: ScaleSchedule;
  /** Its first scales, which this run learns. */
  readonly trained: ScaleSchedule;
  readonly device: Device;
}

function digestOf({ index }: Checkpoint): string {
  const files = Object.entries(index.files).filter(([name]) => name.startsWith('vae/'));
  return files.map(([name, { sha256 }]) => `${name} ${sha256}`).join(', ');
}

const TEXT_PREFIX = 'text_encoder.';

/** Parameters of the transformer under their own names, those of the text encoder below `text_encoder.`. */
function* trained({
  transformer,
  textEncoder,
}: Pick<Parts, 'transformer' | 'textEncoder'>): Generator<[string, Tensor]> {
  yield* transformer.namedParameters();
  yield* textEncoder.namedParameters(TEXT_PREFIX);
}

/** One training of transformer and text encoder: its networks, its optimizer and its step. */
export class TransformerTrainer implements Trainee {
  private readonly correction: BitwiseSelfCorrection;

  private constructor(
    private readonly parts: Parts,
    readonly optimizer: AdamW,
  ) {
    this.correction = new BitwiseSelfCorrection(parts.config.self_correction);
  }

  /**
   * @param tokenizer checkpoint with the trained visual tokenizer, which stays as it is and is exported along
   * @param init checkpoint whose transformer, text encoder and text tokenizer are the start
   * @throws InfinityError INVALID_ARGUMENT, IO_ERROR, CHECKPOINT_INVALID, CHECKPOINT_CONFIG_MISMATCH
   */
  static async create(
    json: unknown,
    { device, tokenizer, init }: { device: Device; tokenizer: Checkpoint; init?: Checkpoint | undefined },
  ): Promise<TransformerTrainer> {
    const config = checkRunConfig<TransformerTrainingConfig>(json, RULES);
    const vae = await tokenizer.component('vae');
    const autoencoderConfig = parseAutoencoderConfig(vae.config);
    const schedule = parseGrids(String(vae.config.scale_schedule));
    checkPictureSize(config.dataset, schedule, autoencoderConfig.patch_size);
    const source = await findDataset(config.dataset, 'transformer');
    const text = await chooseTextTokenizer(source, { limit: config.vocabulary_limit, init });
    const parts = placed({ device }, (): Parts => {
      const transformer = new InfinityTransformer(
        transformerConfig(config.transformer, {
          vae_embed_dim: autoencoderConfig.codebook_dim,
          text_channels: config.text_encoder.d_model,
          scale_schedules: [schedule],
        }),
      );
      const textEncoder = new T5Encoder(
        readPart('text_encoder', () =>
          parseT5Config({ ...config.text_encoder, vocab_size: text.tokenizer.vocabularySize }),
        ),
      );
      const autoencoder = new Autoencoder(autoencoderConfig);
      return {
        config,
        source,
        autoencoder,
        vae,
        tokenizerDigest: digestOf(tokenizer),
        transformer,
        textEncoder,
        text,
        schedule,
        trained: schedule.slice(0, config.always_training_scales),
        device,
      };
    });
    await loadComponent(parts.autoencoder, tokenizer, 'vae');
    parts.autoencoder.freeze('f32');
    if (init) {
      await loadComponent(parts.transformer, init, 'transformer');
      await loadComponent(parts.textEncoder, init, 'text_encoder');
    } else {
      parts.transformer.initialize(config.seed);
      parts.textEncoder.initialize(config.seed);
    }
    const optimizer = await AdamW.create(trained(parts), {
      betas: config.optimizer.betas,
      clip: config.optimizer.clip,
      emaDecay: config.optimizer.ema_decay,
    });
    return new TransformerTrainer(parts, optimizer);
  }

  get device(): Device {
    return this.parts.device;
  }

  get source(): DatasetSource {
    return this.parts.source;
  }

  weights(): Iterable<[string, Tensor]> {
    return trained(this.parts);
  }

  run(options: RunOptions): AsyncGenerator<StepEvent> {
    const { config, tokenizerDigest: tokenizer, text } = this.parts;
    const state = { ...config, tokenizer, ...(text.digest === undefined ? {} : { text_tokenizer: text.digest }) };
    return runTraining(this, state, options);
  }

  async step(batch: Batch, step: number, rates: StepRates): Promise<StepNumbers> {
    const { config, autoencoder, transformer, textEncoder, text, trained, device, source } = this.parts;
    const { seed, text_dropout, reweight } = config;
    const image_BHWC = picturesOf(batch, source, device);
    const features_BHWd = autoencoder.encode(image_BHWC);
    const { inputs_BLD, labels_BLD } = this.tokens(features_BHWd, batch, step);
    const maxLength = transformer.config.text_maxlen;
    const prompts = batch.captions.map((caption) => text.tokenizer.encode(caption, { maxLength }).ids);
    const draw = (sample: number, stream: number, element = 0, scale = 0): number =>
      uniformDraw(seed, { element, scale, image: batch.first + sample, stream });
    const dropText = prompts.map((_, b) => draw(b, RandomStream.dropText) < text_dropout);
    const dropPath = dropPathRates(transformer.config).map((rate, i) => {
      const keep = (branch: number): number[] =>
        prompts.map((_, b) => Number(draw(b, RandomStream.dropPath, branch, i) >= rate));
      return { sa: keep(0), ffn: keep(1) };
    });
    const tape = new Tape().watch(...this.optimizer.parameters);
    const out = tape.run(() => {
      const options = { text: textEncoder.encode(prompts), schedule: trained, dropText, dropPath, reweight };
      return transformer.loss(inputs_BLD, labels_BLD, options);
    });
    const one = Tensor.from([1], [], 'f32', device);
    const grads = tape.backward([{ of: out.loss, cotangent: one }]);
    const norm = this.optimizer.update(grads, rates);
    try {
      const [loss, gradNorm, correct] = await Promise.all([
        out.loss.readFloats(),
        norm.readFloats(),
        out.correct.readFloats(),
      ]);
      return { loss: loss[0]!, gradNorm: gradNorm[0]!, metrics: this.accuracies(correct, prompts.length) };
    } finally {
      grads.dispose();
      const scratch = [image_BHWC, features_BHWd, inputs_BLD, labels_BLD, one, norm, ...Object.values(out)];
      for (const t of scratch) t?.dispose();
    }
  }

  /** Inputs and labels of the scales that are learned. */
  private tokens(
    features_BHWd: Tensor,
    { first }: Batch,
    step: number,
  ): Pick<SelfCorrected, 'inputs_BLD' | 'labels_BLD'> {
    const { config, schedule, trained } = this.parts;
    const draws = { seed: config.seed, step, firstSample: first };
    return scope(() => {
      const { inputs_BLD, labels_BLD } = this.correction.apply(features_BHWd, schedule, draws);
      if (trained.length === schedule.length) return { inputs_BLD, labels_BLD };
      const count = tokenCount(trained);
      return { inputs_BLD: slice(inputs_BLD!, 1, 0, count - 1), labels_BLD: slice(labels_BLD, 1, 0, count) };
    });
  }

  /** Share of right bits, of all and of each scale. */
  private accuracies(correct: ArrayLike<number>, batch: number): Record<string, number> {
    const { trained: schedule, transformer } = this.parts;
    const [tokens, bits, offsets] = [tokenCount(schedule), tokenBits(transformer.config), scaleOffsets(schedule)];
    const sums = new Array<number>(schedule.length).fill(0);
    for (let b = 0; b < batch; b++)
      for (const [k] of schedule.entries())
        for (let t = offsets[k]!; t < offsets[k + 1]!; t++) sums[k]! += correct[b * tokens + t]!;
    const total = sums.reduce((a, s) => a + s, 0) / (batch * tokens * bits);
    const each = sums.map((s, k) => [`scale${k}`, s / (batch * (offsets[k + 1]! - offsets[k]!) * bits)] as const);
    return { accuracy: total, ...Object.fromEntries(each) };
  }

  /** Writes the whole model: averaged weights, the tokenizer it was trained on, the text tokenizer, generation defaults. */
  async export(directory: string): Promise<void> {
    const { config, vae, transformer, textEncoder, text } = this.parts;
    const averages = this.optimizer.averages();
    await writeCheckpoint(directory, {
      components: {
        vae,
        transformer: { config: { ...transformer.config }, tensors: await exportWeights(transformer, averages) },
        text_encoder: {
          config: { ...textEncoder.config },
          tensors: await exportWeights(textEncoder, averages, TEXT_PREFIX),
        },
      },
      tokenizer: text.tokenizer.json,
      generationConfig: config.generation,
    });
  }

  dispose(): void {
    const { autoencoder, transformer, textEncoder } = this.parts;
    this.optimizer.dispose();
    for (const module of [autoencoder, transformer, textEncoder]) module.dispose();
  }
}
