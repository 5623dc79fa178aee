/** AdamW over named parameters, with the gradient clipped by its global norm and an optional average of the weights. */
import { InfinityError } from '../errors.js';
import { adamw_, clipFactor, sumSquares } from '../ops/optim.js';
import { zerosLike } from '../ops/shape.js';
import type { Gradients } from '../tape.js';
import { scope, Tensor, unscoped } from '../tensor.js';
import { type NotFinite, notFinite } from './not_finite.js';
import { hasWeightDecay } from './parameter_groups.js';

/** Settings that hold for a whole run. */
export interface OptimizerOptions {
  readonly betas: readonly [number, number];
  readonly eps?: number;
  /** Largest global norm of the gradient; larger ones are scaled down. */
  readonly clip: number;
  /** Weight decay for vectors, biases and named embeddings as well, as plain torch.optim.AdamW; false by default. */
  readonly decayVectors?: boolean | undefined;
  /** Decay of the averaged weights; left out, none are kept. */
  readonly emaDecay?: number;
}

/** Settings of one step. */
export interface StepRates {
  readonly lr: number;
  readonly weightDecay: number;
}

interface Slot {
  readonly name: string;
  readonly parameter: Tensor;
  readonly decays: boolean;
  readonly m: Tensor;
  readonly v: Tensor;
  readonly average: Tensor | undefined;
}

/** A copy on the device, made through the host once. */
async function copyOf(t: Tensor): Promise<Tensor> {
  return Tensor.from(await t.read(), t.shape, t.dtype, t.device);
}

/** The optimizer of a run and its state: two moments a parameter, and the averaged weights. */
export class AdamW {
  private slots: Slot[] = [];
  /** Σ g² of every gradient of the last update, [n]. */
  private squares: { readonly names: readonly string[]; readonly sums: Tensor } | undefined;
  /** Updates made so far. */
  step = 0;

  private constructor(readonly options: OptimizerOptions) {}

  /** Takes memory for the state of all parameters; averages start at the weights of this moment. */
  static async create(parameters: Iterable<[string, Tensor]>, options: OptimizerOptions): Promise<AdamW> {
    const optimizer = new AdamW(options);
    for (const [name, parameter] of parameters) {
      const average = options.emaDecay === undefined ? undefined : await copyOf(parameter);
      optimizer.slots.push({
        name,
        parameter,
        decays: options.decayVectors === true || hasWeightDecay(name, parameter.rank),
        m: zerosLike(parameter),
        v: zerosLike(parameter),
        average,
      });
    }
    return optimizer;
  }

  get parameters(): Tensor[] {
    return this.slots.map((s) => s.parameter);
  }

  /**
   * One update. Parameters without a gradient stay as they are.
   * @returns the gradient's global norm before clipping, a tensor of shape [] that the caller disposes
   */
  update(grads: Gradients, { lr, weightDecay }: StepRates): Tensor {
    const { betas, eps = 1e-8, clip, emaDecay } = this.options;
    this.step++;
    const known = this.slots.flatMap(({ name, parameter }) => {
      const gradient = grads.get(parameter);
      return gradient ? [{ name, gradient }] : [];
    });
    this.forgetSquares();
    const sums = unscoped(() => sumSquares(known.map(({ gradient }) => gradient)));
    this.squares = { names: known.map(({ name }) => name), sums };
    // Early on an average over few steps must not remember the initial weights.
    const averageDecay = emaDecay === undefined ? undefined : Math.min(emaDecay, (1 + this.step) / (10 + this.step));
    return scope(() => {
      const { norm, factor } = clipFactor(sums, clip);
      for (const decays of [true, false]) {
        const group = this.slots.filter((slot) => slot.decays === decays);
        if (group.length === 0) continue;
        adamw_(
          group.map((slot) => ({ ...slot, gradient: grads.get(slot.parameter) ?? null })),
          {
            lr,
            beta1: betas[0],
            beta2: betas[1],
            eps,
            weightDecay: decays ? weightDecay : 0,
            step: this.step,
            gradScale: factor,
            averageDecay,
          },
        );
      }
      return norm;
    });
  }

  private forgetSquares(): void {
    this.squares?.sums.dispose();
    this.squares = undefined;
  }

  /**
   * The first gradient of the last update that was not finite, in the order in which they were computed: the parameters' from the
   * loss backwards.
   */
  async notFiniteGradient(): Promise<NotFinite | undefined> {
    if (!this.squares) return undefined;
    const names = await notFinite(this.squares.names, this.squares.sums);
    const name = names.at(-1);
    return name === undefined ? undefined : { name, others: names.length - 1 };
  }

  /** The averaged weights by parameter name; empty without `emaDecay`. */
  averages(): Map<string, Tensor> {
    return new Map(this.slots.flatMap((s) => (s.average ? [[s.name, s.average] as const] : [])));
  }

  /** Everything a resumed run needs besides the weights: `m.NAME`, `v.NAME`, `average.NAME`. */
  *stateTensors(): Generator<[string, Tensor]> {
    for (const { name, m, v, average } of this.slots) {
      yield [`m.${name}`, m];
      yield [`v.${name}`, v];
      if (average) yield [`average.${name}`, average];
    }
  }

  /** @throws InfinityError CHECKPOINT_CONFIG_MISMATCH when a tensor is missing or has another size */
  load(state: ReadonlyMap<string, Float32Array>, step: number): void {
    unscoped(() => {
      for (const [name, tensor] of this.stateTensors()) {
        const data = state.get(name);
        if (data?.length !== tensor.size)
          throw new InfinityError(
            'CHECKPOINT_CONFIG_MISMATCH',
            `Expected ${tensor.size} numbers for '${name}' of the optimizer state but found ${data?.length ?? 'none'}.`,
            { value: name, cure: 'Resume with the configuration that the run was started with.' },
          );
        tensor.write(data);
      }
    });
    this.step = step;
  }

  dispose(): void {
    this.forgetSquares();
    for (const { m, v, average } of this.slots) {
      m.dispose();
      v.dispose();
      average?.dispose();
    }
    this.slots = [];
  }
}
