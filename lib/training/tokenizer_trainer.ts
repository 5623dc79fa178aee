/**
 * Trains the visual tokenizer by the published recipe: reconstruction, entropy and commitment, with scales dropped at random and
 * several picture sizes in turn. Source: BitVAE, train.py and bitvae/models/d_vae.py.
 */
import type { Batch } from '../data/batch.js';
import { type DatasetSource, findDataset } from '../data/dataset.js';
import { FileDigests } from '../data/file_digests.js';
import type { Device } from '../device.js';
import { writeCheckpoint } from '../io/checkpoint.js';
import { toSignedFloat } from '../io/pixels.js';
import { placed } from '../nn/module.js';
import { resizeArea } from '../ops/resize.js';
import { RandomStream, uniformDraw } from '../philox.js';
import { Tape } from '../tape.js';
import { scope, sizeOf, Tensor } from '../tensor.js';
import { Autoencoder } from '../tokenizer/autoencoder.js';
import { droppedScales, MultiScaleQuantizer } from '../tokenizer/quantizer.js';
import { formatGrids } from '../tokenizer/schedule.js';
import { Adversary, type AdversaryStep } from './adversary.js';
import { openCache } from './cache.js';
import { exportWeights } from './export_checkpoint.js';
import { lfqExportFactor, restoreLfq } from './lfq_checkpoint.js';
import { AdamW, type StepRates } from './optimizer.js';
import { type LoadedLpips, loadLpips } from './perceptual_weights.js';
import { largestOf, type Resolution, resolutionAt } from './resolutions.js';
import { type RunOptions, runTraining, type StepEvent, type StepNumbers, type Trainee } from './run.js';
import { loadStart, type Start } from './start.js';
import { type CheckedTokenizerConfig, checkTokenizerConfig, type TokenizerTrainingConfig } from './tokenizer_config.js';
import { type TokenizerLossWeights, type TokenizerTerms, tokenizerLosses } from './tokenizer_losses.js';

export type { TokenizerTrainingConfig } from './tokenizer_config.js';

/** Bytes of the first `count` pictures of a batch to pictures in [-1, 1]. */
export function picturesOf({ pixels, size, captions }: Batch, device: Device, count = captions.length): Tensor {
  const shape = [count, ...size, 3];
  return Tensor.from(toSignedFloat(pixels.subarray(0, sizeOf(shape))), shape, 'f32', device);
}

/** Numbers [] of one step, by their names. */
async function readNumbers(tensors: Readonly<Record<string, Tensor>>): Promise<Record<string, number>> {
  const entries = Object.entries(tensors).map(async ([name, t]) => [name, (await t.readFloats())[0]!] as const);
  return Object.fromEntries(await Promise.all(entries));
}

/** What a training is made of. */
interface Parts extends CheckedTokenizerConfig {
  readonly source: DatasetSource;
  readonly autoencoder: Autoencoder;
  readonly optimizer: AdamW;
  readonly perceptual: LoadedLpips | undefined;
  readonly adversary: Adversary | undefined;
  readonly device: Device;
}

/** One training of the visual tokenizer: its networks, its optimizers and its step. */
export class TokenizerTrainer implements Trainee {
  private readonly quantizer: MultiScaleQuantizer;
  private readonly weight: TokenizerLossWeights;

  private constructor(private readonly parts: Parts) {
    const { loss, quantizer: kind, discriminator } = parts.config;
    this.quantizer = new MultiScaleQuantizer({
      codebookDim: parts.autoencoderConfig.codebook_dim,
      kind,
      commitmentWeight: loss.commitment,
      entropyWeight: loss.entropy,
      removeResidualDetach: true,
    });
    this.weight = { ...loss, perceptual: loss.perceptual ?? 1, adversarial: discriminator?.weight };
  }

  get config(): TokenizerTrainingConfig {
    return this.parts.config;
  }

  get source(): DatasetSource {
    return this.parts.source;
  }

  get device(): Device {
    return this.parts.device;
  }

  get autoencoder(): Autoencoder {
    return this.parts.autoencoder;
  }

  get optimizer(): AdamW {
    return this.parts.optimizer;
  }

  get otherOptimizers(): AdamW[] {
    const { adversary } = this.parts;
    return adversary ? [adversary.optimizer] : [];
  }

  /** What is on and off, for the first line of a log. */
  get summary(): string {
    const { perceptual, adversary, config } = this.parts;
    return [
      `${config.quantizer ?? 'bsq'} with ${config.autoencoder.codebook_dim} bits`,
      perceptual
        ? `perceptual loss, weight ${this.weight.perceptual}`
        : 'no perceptual loss: loss.perceptual_weights names no files',
      adversary ? `discriminator from step ${adversary.config.start} on` : 'no discriminator',
    ].join('; ');
  }

  /**
   * @param init checkpoint whose tokenizer is the start; by default weights are drawn from the config's seed
   * @throws InfinityError INVALID_ARGUMENT, IO_ERROR, MODEL_NOT_FOUND, CHECKPOINT_INVALID, CHECKPOINT_CONFIG_MISMATCH
   */
  static async create(
    json: unknown,
    { device, init }: { device: Device; init?: Start | undefined },
  ): Promise<TokenizerTrainer> {
    const checked = checkTokenizerConfig(json);
    const { config, autoencoderConfig } = checked;
    const { seed, discriminator, decay_vectors: decayVectors, loss } = config;
    const { betas, clip, ema_decay: emaDecay } = config.optimizer;
    const source = await findDataset(config.dataset, 'tokenizer', new FileDigests(openCache(config)));
    const made: { dispose(): void }[] = [];
    const keep = <T extends { dispose(): void }>(part: T): T => {
      made.push(part);
      return part;
    };
    try {
      const perceptual = loss.perceptual_weights && (await loadLpips(loss.perceptual_weights, device));
      if (perceptual) keep(perceptual.network);
      const autoencoder = keep(placed({ device }, () => new Autoencoder(autoencoderConfig)));
      if (init) await loadStart(autoencoder, init, 'vae');
      else autoencoder.initialize(seed);
      if (init && config.quantizer === 'lfq') await restoreLfq(autoencoder);
      const weights = autoencoder.namedParameters();
      const optimizer = keep(await AdamW.create(weights, { betas, clip, emaDecay, decayVectors }));
      const adversary = discriminator && keep(await Adversary.create(discriminator, { device, seed, betas, clip }));
      return new TokenizerTrainer({ ...checked, source, autoencoder, optimizer, perceptual, adversary, device });
    } catch (error) {
      for (const part of made) part.dispose();
      throw error;
    }
  }

  *weights(): Generator<[string, Tensor]> {
    yield* this.autoencoder.namedParameters();
    if (this.parts.adversary) yield* this.parts.adversary.weights();
  }

  run(options: RunOptions): AsyncGenerator<StepEvent> {
    const { config, perceptual } = this.parts;
    if (!perceptual) return runTraining(this, config, options);
    // The files may lie elsewhere when the run goes on.
    const { perceptual_weights: _, ...loss } = config.loss;
    const state = { ...config, loss, perceptual_digest: perceptual.digest };
    return runTraining(this, state, options);
  }

  private resolutionAt(step: number): Resolution {
    return resolutionAt(this.parts.resolutions, this.config.seed, step);
  }

  samplesAt(step: number): number {
    return this.resolutionAt(step).batch;
  }

  async step(batch: Batch, step: number, rates: StepRates): Promise<StepNumbers> {
    const { config, autoencoder, perceptual, optimizer, device } = this.parts;
    const resolution = this.resolutionAt(step);
    const image_BHWC = this.pictures(batch, resolution);
    const adversary = this.parts.adversary?.active(step) ? this.parts.adversary : undefined;
    const tape = new Tape().watch(...optimizer.parameters);
    const out = tape.run(() => {
      const networks = {
        autoencoder,
        quantizer: this.quantizer,
        perceptual: perceptual?.network,
        discriminator: adversary?.network,
      };
      const dropped = this.dropped(resolution, step);
      const { total, terms, image } = tokenizerLosses(networks, this.weight, image_BHWC, resolution.schedule, {
        dropped,
        checkpointing: config.checkpointing,
      });
      return { total, terms, image };
    });
    const one = Tensor.from([1], [], 'f32', device);
    const grads = tape.backward([{ of: out.total, cotangent: one }]);
    const norm = optimizer.update(grads, rates);
    const judged = adversary?.step(image_BHWC, out.image, rates);
    if (!adversary) this.parts.adversary?.rest(rates);
    try {
      return await this.numbers({ total: out.total, norm }, out.terms, judged);
    } finally {
      grads.dispose();
      const { total, image, terms } = out;
      const scratch = [image_BHWC, one, norm, total, image, ...Object.values(terms), judged?.loss, judged?.norm];
      for (const t of scratch) t?.dispose();
    }
  }

  private async numbers(
    of: Readonly<Record<'total' | 'norm', Tensor>>,
    terms: TokenizerTerms,
    judged: AdversaryStep | undefined,
  ): Promise<StepNumbers> {
    const [{ total, norm }, { l1, l2, ...others }, adversarial] = await Promise.all([
      readNumbers(of),
      readNumbers({ ...terms }),
      judged ? readNumbers({ discriminator: judged.loss, discriminator_norm: judged.norm }) : {},
    ]);
    // Pictures span [-1, 1]: the peak is 2.
    const metrics = { l1: l1!, psnr: 10 * Math.log10(4 / l2!), ...others, ...adversarial };
    const numbers = { loss: total!, gradNorm: norm!, metrics };
    if (!this.parts.adversary) return numbers;
    // Two networks that learn against each other have no loss that falls: watched is what the discriminator does not decide.
    const watched = total! - (this.weight.adversarial ?? 0) * (others.adversarial ?? 0);
    return { ...numbers, watched, phase: judged ? 'adversarial' : 'plain' };
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
    const { autoencoderConfig, config: ofTraining, resolutions } = this.parts;
    const { schedule } = largestOf(resolutions);
    const config = { ...autoencoderConfig, scale_schedule: formatGrids(schedule) };
    const factorOf = (name: string): number =>
      ofTraining.quantizer === 'lfq' ? lfqExportFactor(name, autoencoderConfig.codebook_dim) : 1;
    const tensors = await exportWeights(this.autoencoder, this.optimizer.averages(), '', factorOf);
    await writeCheckpoint(directory, { components: { vae: { config, tensors } } });
  }

  dispose(): void {
    const { optimizer, autoencoder, perceptual, adversary } = this.parts;
    for (const part of [optimizer, autoencoder, perceptual?.network, adversary]) part?.dispose();
  }
}
