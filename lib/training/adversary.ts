/** A discriminator that trains against the tokenizer, with an optimizer of its own. Source: BitVAE, train.py. */
import type { Device } from '../device.js';
import { InfinityError } from '../errors.js';
import { placed } from '../nn/module.js';
import { fill, zerosLike } from '../ops/shape.js';
import { Gradients, Tape } from '../tape.js';
import { scope, type Tensor } from '../tensor.js';
import { integer, number, type OptimizerConfig, optional, positive, type Rule } from './config.js';
import { type DiscriminatorShape, discriminatorLoss, PatchDiscriminator } from './discriminator.js';
import { AdamW, type StepRates } from './optimizer.js';
import { loadRunState } from './run_state.js';

/** The field `discriminator` of a tokenizer's config. */
export interface AdversaryConfig extends DiscriminatorShape {
  /** Of the generator's term in the tokenizer's loss; official 0.3. */
  readonly weight: number;
  /** The step from which on it counts; official 50000 in stage 1, 0 in stage 2. */
  readonly start: number;
  /** Learning rate as a multiple of the tokenizer's; official 2. */
  readonly lr_multiplier: number;
  /** Weight of LeCam regularisation; official 0.05. */
  readonly lecam: number;
  /** Directory of a run whose discriminator is the start. */
  readonly init?: string;
}

export const ADVERSARY_RULES: readonly Rule[] = [
  integer('discriminator.base_ch', 1),
  integer('discriminator.layers', 1),
  number('discriminator.weight'),
  integer('discriminator.start', 0),
  positive('discriminator.lr_multiplier'),
  number('discriminator.lecam'),
  optional(['discriminator.init', 'the directory of a run', (v) => typeof v === 'string' && v !== '']),
];

const PREFIX = 'discriminator.';

/** What a step of the discriminator gives, tensors [] of the caller. */
export interface AdversaryStep {
  readonly loss: Tensor;
  /** Of its gradient before clipping. */
  readonly norm: Tensor;
}

/** The discriminator, its optimizer and its step. */
export class Adversary {
  private constructor(
    readonly config: AdversaryConfig,
    readonly network: PatchDiscriminator,
    readonly optimizer: AdamW,
  ) {}

  /** @throws InfinityError MODEL_NOT_FOUND, CHECKPOINT_CONFIG_MISMATCH where `init` has no such discriminator */
  static async create(
    config: AdversaryConfig,
    { device, seed, betas, clip }: { device: Device; seed: number } & Pick<OptimizerConfig, 'betas' | 'clip'>,
  ): Promise<Adversary> {
    const network = placed({ device }, () => new PatchDiscriminator(config));
    try {
      if (config.init === undefined) network.initialize(seed);
      else await loadFromRun(network, config.init);
    } catch (error) {
      network.dispose();
      throw error;
    }
    const optimizer = await AdamW.create(network.namedParameters(PREFIX), { betas, clip, decayVectors: true });
    return new Adversary(config, network, optimizer);
  }

  /** Whether it takes part in a step. */
  active(step: number): boolean {
    return step >= this.config.start;
  }

  weights(): Iterable<[string, Tensor]> {
    return this.network.namedParameters(PREFIX);
  }

  /** One step on pictures and on their reconstructions, which are constants here. */
  step(real_BHWC: Tensor, fake_BHWC: Tensor, rates: StepRates): AdversaryStep {
    return scope(() => {
      const tape = new Tape().watch(...this.optimizer.parameters);
      const loss = tape.run(() =>
        discriminatorLoss(this.network.forward(real_BHWC), this.network.forward(fake_BHWC), this.config.lecam),
      );
      const grads = tape.backward([{ of: loss, cotangent: fill([], 1, loss.dtype, loss.device) }]);
      const norm = this.optimizer.update(grads, this.ratesOf(rates));
      grads.dispose();
      return { loss, norm };
    });
  }

  /** A step before `start`: the loss is multiplied by 0, so only weight decay acts, and the optimizer counts its steps. */
  rest(rates: StepRates): void {
    scope(() => {
      const zeros = this.optimizer.parameters.map((p): [number, Tensor] => [p.id, zerosLike(p)]);
      this.optimizer.update(new Gradients(new Map(zeros)), this.ratesOf(rates));
    });
  }

  private ratesOf({ lr, weightDecay }: StepRates): StepRates {
    return { lr: lr * this.config.lr_multiplier, weightDecay };
  }

  dispose(): void {
    this.optimizer.dispose();
    this.network.dispose();
  }
}

async function loadFromRun(network: PatchDiscriminator, directory: string): Promise<void> {
  const found = await loadRunState(directory);
  const prefix = `weight.${PREFIX}`;
  const own = [...(found?.state.tensors ?? [])].filter(([name]) => name.startsWith(prefix));
  if (own.length === 0)
    throw new InfinityError('MODEL_NOT_FOUND', `There is no saved discriminator in ${directory}.`, {
      value: directory,
      fields: { field: 'discriminator.init' },
      cure: 'Name the output directory of a tokenizer training with a discriminator, or leave discriminator.init out.',
    });
  network.load(new Map(own.map(([name, tensor]) => [name.slice(prefix.length), tensor])));
}
