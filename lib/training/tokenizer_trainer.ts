/**
 * Trains the visual tokenizer by the published recipe: reconstruction, entropy and commitment, with scales dropped at random and
 * several picture sizes in turn. Source: BitVAE, train.py and bitvae/models/d_vae.py.
 */
import type { Batch } from '../data/batch.js';
import { type DatasetSource, findDataset } from '../data/dataset.js';
import type { Device } from '../device.js';
import { type Checkpoint, writeCheckpoint } from '../io/checkpoint.js';
import { toSignedFloat } from '../io/pixels.js';
import { placed } from '../nn/module.js';
import { MAX_JOINT_BITS } from '../ops/quantize.js';
import { resizeArea } from '../ops/resize.js';
import { RandomStream, uniformDraw } from '../philox.js';
import { Tape } from '../tape.js';
import { scope, sizeOf, Tensor } from '../tensor.js';
import { Autoencoder } from '../tokenizer/autoencoder.js';
import { type AutoencoderConfig, parseAutoencoderConfig } from '../tokenizer/config.js';
import { droppedScales, MultiScaleQuantizer, QUANTIZER_KINDS, type QuantizerKind } from '../tokenizer/quantizer.js';
import { formatGrids } from '../tokenizer/schedule.js';
import { SCHEDULE_MODES } from '../tokenizer/schedule_modes.js';
import {
  checkRunConfig,
  number,
  object,
  optional,
  type Rule,
  type RunConfig,
  readPart,
  refuseField,
  samplesRule,
} from './config.js';
import { exportWeights, loadComponent } from './export_checkpoint.js';
import { lfqExportFactor, restoreLfq } from './lfq_checkpoint.js';
import { AdamW, type StepRates } from './optimizer.js';
import {
  isResolutions,
  isSchedule,
  largestOf,
  type Resolution,
  type ResolutionConfig,
  resolutionAt,
  resolutionsOf,
} from './resolutions.js';
import { type RunOptions, runTraining, type StepEvent, type StepNumbers, type Trainee } from './run.js';
import { type TokenizerTerms, tokenizerLosses } from './tokenizer_losses.js';

/** What a config file of `train tokenizer` holds. */
export interface TokenizerTrainingConfig extends RunConfig {
  readonly autoencoder: AutoencoderConfig;
  /** "bsq" by default; "lfq" for comparison, up to 16 bits. */
  readonly quantizer?: QuantizerKind;
  /** Grids from coarse to fine on the latent, such as "1 2 4x2", or a published mode; official "dense". */
  readonly schedule: string;
  /** Sizes that take turns, the largest that of the dataset; only that one by default. */
  readonly resolutions?: readonly ResolutionConfig[];
  readonly loss: {
    readonly l1: number;
    readonly l2: number;
    /** Weight of the quantiser's loss; official 4. */
    readonly quantizer: number;
    /** Inside the quantiser's loss: official 0.25 and 0.1. */
    readonly commitment: number;
    readonly entropy: number;
    /** Weight of the squared residual that the last scale leaves; official 0. */
    readonly residual?: number;
  };
  /** Probability that a scale other than the last is left out in a step; official 0.5. */
  readonly scale_dropout: number;
}

const RULES: readonly Rule[] = [
  object('autoencoder'),
  optional(['quantizer', `one of ${QUANTIZER_KINDS.join(', ')}`, (v) => QUANTIZER_KINDS.some((kind) => kind === v)]),
  ['schedule', `grids from coarse to fine such as "1 2 4x2", or one of ${SCHEDULE_MODES.join(', ')},`, isSchedule],
  optional(['resolutions', 'a list of objects with "size" and "batch_size"', isResolutions]),
  ...['l1', 'l2', 'quantizer', 'commitment', 'entropy'].map((term) => number(`loss.${term}`)),
  optional(number('loss.residual')),
  number('scale_dropout', 0, 1),
  samplesRule({ prompts: false }),
];

/** Bytes of the first `count` pictures of a batch to pictures in [-1, 1]. */
export function picturesOf({ pixels, size, captions }: Batch, device: Device, count = captions.length): Tensor {
  const shape = [count, ...size, 3];
  return Tensor.from(toSignedFloat(pixels.subarray(0, sizeOf(shape))), shape, 'f32', device);
}

async function readTerms(terms: TokenizerTerms): Promise<Record<keyof TokenizerTerms, number>> {
  const read = Object.entries(terms).map(async ([name, t]: [string, Tensor]) => [name, (await t.readFloats())[0]!]);
  return Object.fromEntries(await Promise.all(read)) as Record<keyof TokenizerTerms, number>;
}

/** One training of the visual tokenizer: its networks, its optimizer and its step. */
export class TokenizerTrainer implements Trainee {
  private readonly quantizer: MultiScaleQuantizer;

  private constructor(
    readonly config: TokenizerTrainingConfig,
    readonly source: DatasetSource,
    readonly autoencoder: Autoencoder,
    readonly optimizer: AdamW,
    private readonly resolutions: readonly Resolution[],
    readonly device: Device,
  ) {
    this.quantizer = new MultiScaleQuantizer({
      codebookDim: config.autoencoder.codebook_dim,
      kind: config.quantizer,
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
    const lfq = config.quantizer === 'lfq';
    if (lfq && autoencoderConfig.codebook_dim > MAX_JOINT_BITS)
      refuseField(
        'autoencoder.codebook_dim',
        `at most ${MAX_JOINT_BITS} bits with "lfq", whose entropies go through 2^d codes,`,
        autoencoderConfig.codebook_dim,
      );
    const resolutions = resolutionsOf(config, autoencoderConfig.patch_size);
    const source = await findDataset(config.dataset, 'tokenizer');
    const autoencoder = placed({ device }, () => new Autoencoder(autoencoderConfig));
    if (init) await loadComponent(autoencoder, init, 'vae');
    else autoencoder.initialize(config.seed);
    if (init && lfq) await restoreLfq(autoencoder);
    const optimizer = await AdamW.create(autoencoder.namedParameters(), {
      betas: config.optimizer.betas,
      clip: config.optimizer.clip,
      emaDecay: config.optimizer.ema_decay,
    });
    return new TokenizerTrainer(config, source, autoencoder, optimizer, resolutions, device);
  }

  *weights(): Generator<[string, Tensor]> {
    yield* this.autoencoder.namedParameters();
  }

  run(options: RunOptions): AsyncGenerator<StepEvent> {
    return runTraining(this, this.config, options);
  }

  async step(batch: Batch, step: number, rates: StepRates): Promise<StepNumbers> {
    const { seed } = this.config;
    const resolution = resolutionAt(this.resolutions, seed, step);
    const image_BHWC = this.pictures(batch, resolution);
    const tape = new Tape().watch(...this.optimizer.parameters);
    const out = tape.run(() => {
      const dropped = this.dropped(resolution, step);
      const { autoencoder, quantizer } = this;
      const { total, terms } = tokenizerLosses(
        { autoencoder, quantizer },
        this.config.loss,
        image_BHWC,
        resolution.schedule,
        { dropped },
      );
      return { total, terms };
    });
    const one = Tensor.from([1], [], 'f32', this.device);
    const grads = tape.backward([{ of: out.total, cotangent: one }]);
    const norm = this.optimizer.update(grads, rates);
    try {
      const number = async (t: Tensor): Promise<number> => (await t.readFloats())[0]!;
      const [total, gradNorm, terms] = await Promise.all([number(out.total), number(norm), readTerms(out.terms)]);
      const { l1, l2, ...others } = terms;
      // Pictures span [-1, 1]: the peak is 2.
      const psnr = 10 * Math.log10(4 / l2);
      return { loss: total, gradNorm, metrics: { l1, psnr, ...others } };
    } finally {
      grads.dispose();
      for (const t of [image_BHWC, one, norm, out.total, ...Object.values(out.terms)]) t.dispose();
    }
  }

  /** The crops of a batch at the size of a step. */
  private pictures(batch: Batch, { size, batch: count }: Resolution): Tensor {
    return scope(() => resizeArea(picturesOf(batch, this.device, count), size));
  }

  private dropped({ schedule }: Resolution, step: number): boolean[] {
    const { seed, scale_dropout: rate } = this.config;
    const at = { image: step, stream: RandomStream.dropScale };
    const draws = schedule.map((_, k) => uniformDraw(seed, { ...at, scale: k }));
    return droppedScales(draws, { rate, keepLast: true });
  }

  /** Writes `vae/` with the averaged weights; its config carries the schedule of the largest size. */
  async export(directory: string): Promise<void> {
    const { autoencoder: autoencoderConfig, quantizer } = this.config;
    const { schedule } = largestOf(this.resolutions);
    const config = { ...autoencoderConfig, scale_schedule: formatGrids(schedule) };
    const factorOf = (name: string): number =>
      quantizer === 'lfq' ? lfqExportFactor(name, autoencoderConfig.codebook_dim) : 1;
    const tensors = await exportWeights(this.autoencoder, this.optimizer.averages(), '', factorOf);
    await writeCheckpoint(directory, { components: { vae: { config, tensors } } });
  }

  dispose(): void {
    this.optimizer.dispose();
    this.autoencoder.dispose();
  }
}
