/**
 * Trains the visual tokenizer: reconstruction, entropy and commitment, with scales dropped at random. The published recipe
 * is in BitVAE (bitvae/models/d_vae.py, train.py).
 */
import type { Batch } from '../data/batch.js';
import { type DatasetSource, findDataset } from '../data/dataset.js';
import { sampleSize } from '../data/spec.js';
import type { Device } from '../device.js';
import { type Checkpoint, writeCheckpoint } from '../io/checkpoint.js';
import { toSignedFloat } from '../io/pixels.js';
import { placed } from '../nn/module.js';
import { add, scale } from '../ops/elementwise.js';
import { l1Loss, l2Loss } from '../ops/loss.js';
import { RandomStream, uniformDraw } from '../philox.js';
import { Tape } from '../tape.js';
import { Tensor } from '../tensor.js';
import { Autoencoder } from '../tokenizer/autoencoder.js';
import { type AutoencoderConfig, parseAutoencoderConfig } from '../tokenizer/config.js';
import { droppedScales, MultiScaleQuantizer } from '../tokenizer/quantizer.js';
import { isGrids, parseGrids, type ScaleSchedule } from '../tokenizer/schedule.js';
import { checkPictureSize, checkRunConfig, number, object, type Rule, type RunConfig, readPart } from './config.js';
import { exportWeights, loadComponent } from './export_checkpoint.js';
import { AdamW, type StepRates } from './optimizer.js';
import { type RunOptions, runTraining, type StepEvent, type StepNumbers, type Trainee } from './run.js';

/** What a config file of `train tokenizer` holds. */
export interface TokenizerTrainingConfig extends RunConfig {
  readonly autoencoder: AutoencoderConfig;
  /** Grids from coarse to fine on the latent, such as "1 2 4x2". */
  readonly schedule: string;
  readonly loss: {
    readonly l1: number;
    readonly l2: number;
    /** Weight of the quantiser's loss; official 4. */
    readonly quantizer: number;
    /** Inside the quantiser's loss: official 0.25 and 0.1. */
    readonly commitment: number;
    readonly entropy: number;
  };
  /** Probability that a scale other than the last is left out in a step; official 0.5. */
  readonly scale_dropout: number;
}

const RULES: readonly Rule[] = [
  object('autoencoder'),
  ['schedule', 'grids from coarse to fine such as "1 2 4x2"', isGrids],
  ...['l1', 'l2', 'quantizer', 'commitment', 'entropy'].map((term) => number(`loss.${term}`)),
  number('scale_dropout', 0, 1),
];

/** Bytes of a batch to pictures in [-1, 1]. */
export function picturesOf(batch: Batch, { spec }: DatasetSource, device: Device): Tensor {
  const [height, width] = sampleSize(spec);
  return Tensor.from(toSignedFloat(batch.pixels), [batch.captions.length, height, width, 3], 'f32', device);
}

/** One training of the visual tokenizer: its networks, its optimizer and its step. */
export class TokenizerTrainer implements Trainee {
  readonly schedule: ScaleSchedule;
  private readonly quantizer: MultiScaleQuantizer;

  private constructor(
    readonly config: TokenizerTrainingConfig,
    readonly source: DatasetSource,
    readonly autoencoder: Autoencoder,
    readonly optimizer: AdamW,
    readonly device: Device,
  ) {
    this.schedule = parseGrids(config.schedule);
    this.quantizer = new MultiScaleQuantizer({
      codebookDim: config.autoencoder.codebook_dim,
      commitmentWeight: config.loss.commitment,
      entropyWeight: config.loss.entropy,
      removeResidualDetach: true,
    });
  }

  /**
   * @param init checkpoint whose tokenizer is the start; by default weights are drawn from the config's seed
   * @throws InfinityError INVALID_ARGUMENT, IO_ERROR, CHECKPOINT_INVALID, CHECKPOINT_CONFIG_MISMATCH
   */
  static async create(
    json: unknown,
    { device, init }: { device: Device; init?: Checkpoint | undefined },
  ): Promise<TokenizerTrainer> {
    const config = checkRunConfig<TokenizerTrainingConfig>(json, RULES);
    const autoencoderConfig = readPart('autoencoder', () => parseAutoencoderConfig(config.autoencoder));
    checkPictureSize(config.dataset, parseGrids(config.schedule), autoencoderConfig.patch_size);
    const source = await findDataset(config.dataset, 'tokenizer');
    const autoencoder = placed({ device }, () => new Autoencoder(autoencoderConfig));
    if (init) await loadComponent(autoencoder, init, 'vae');
    else autoencoder.initialize(config.seed);
    const optimizer = await AdamW.create(autoencoder.namedParameters(), {
      betas: config.optimizer.betas,
      clip: config.optimizer.clip,
      emaDecay: config.optimizer.ema_decay,
    });
    return new TokenizerTrainer(config, source, autoencoder, optimizer, device);
  }

  *weights(): Generator<[string, Tensor]> {
    yield* this.autoencoder.namedParameters();
  }

  run(options: RunOptions): AsyncGenerator<StepEvent> {
    return runTraining(this, this.config, options);
  }

  async step(batch: Batch, step: number, rates: StepRates): Promise<StepNumbers> {
    const { loss: weight, seed, scale_dropout } = this.config;
    const image_BHWC = picturesOf(batch, this.source, this.device);
    const draws = this.schedule.map((_, k) =>
      uniformDraw(seed, { scale: k, image: step, stream: RandomStream.dropScale }),
    );
    const dropped = droppedScales(draws, { rate: scale_dropout, keepLast: true });
    const tape = new Tape().watch(...this.optimizer.parameters);
    const out = tape.run(() => {
      const features_BHWD = this.autoencoder.encode(image_BHWC);
      const { quantized, loss: quantizer } = this.quantizer.train(features_BHWD, this.schedule, { dropped });
      const image = this.autoencoder.decodeUnclamped(quantized);
      const l1 = l1Loss(image, image_BHWC);
      const l2 = l2Loss(image, image_BHWC);
      const reconstruction = add(scale(l1, weight.l1), scale(l2, weight.l2));
      return { total: add(reconstruction, scale(quantizer, weight.quantizer)), l1, l2, quantizer };
    });
    const one = Tensor.from([1], [], 'f32', this.device);
    const grads = tape.backward([{ of: out.total, cotangent: one }]);
    const norm = this.optimizer.update(grads, rates);
    try {
      const [total, l1, l2, quantizer, gradNorm] = await Promise.all(
        [out.total, out.l1, out.l2, out.quantizer, norm].map(async (t) => (await t.readFloats())[0]!),
      );
      // Pictures span [-1, 1]: the peak is 2.
      const psnr = 10 * Math.log10(4 / l2!);
      return { loss: total!, gradNorm: gradNorm!, metrics: { l1: l1!, psnr, quantizer: quantizer! } };
    } finally {
      grads.dispose();
      for (const t of [image_BHWC, one, norm, ...Object.values(out)]) t.dispose();
    }
  }

  /** Writes `vae/` with the averaged weights; its config carries the schedule that the tokenizer was trained with. */
  async export(directory: string): Promise<void> {
    const config = { ...this.config.autoencoder, scale_schedule: this.config.schedule };
    const tensors = await exportWeights(this.autoencoder, this.optimizer.averages());
    await writeCheckpoint(directory, { components: { vae: { config, tensors } } });
  }

  dispose(): void {
    this.optimizer.dispose();
    this.autoencoder.dispose();
  }
}
