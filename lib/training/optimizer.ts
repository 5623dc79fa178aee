/** AdamW over named parameters, with the gradient clipped by its global norm and an optional average of the weights. */
import { InfinityError } from '../errors.js';
import { adamw_, clipFactor, ema_, sumSquares } from '../ops/optim.js';
import { zerosLike } from '../ops/shape.js';
import type { Gradients } from '../tape.js';
import { scope, Tensor, unscoped } from '../tensor.js';
import { firstNotFinite, type NotFinite } from './not_finite.js';
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
  /** Σ g² of every gradient of the last update, by parameter. */
  private squares: (readonly [name: string, sum: Tensor])[] = [];
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
    const used = this.slots.flatMap((slot) => {
      const grad = grads.get(slot.parameter);
      return grad ? [{ slot, grad }] : [];
    });
    this.forgetSquares();
    this.squares = unscoped(() => used.map(({ slot, grad }) => [slot.name, sumSquares(grad)] as const));
    return scope(() => {
      const { norm, factor } = clipFactor(
        this.squares.map(([, sum]) => sum),
        clip,
      );
      for (const { slot, grad } of used) {
        adamw_(slot.parameter, grad, slot.m, slot.v, {
          lr,
          beta1: betas[0],
          beta2: betas[1],
          eps,
          weightDecay: slot.decays ? weightDecay : 0,
          step: this.step,
          gradScale: factor,
        });
      }
      if (emaDecay !== undefined) {
        // Early on an average over few steps must not remember the initial weights.
        const decay = Math.min(emaDecay, (1 + this.step) / (10 + this.step));
        for (const { parameter, average } of this.slots) ema_(average!, parameter, decay);
      }
      return norm;
    });
  }

  private forgetSquares(): void {
    for (const [, sum] of this.squares) sum.dispose();
    this.squares = [];
  }

  /**
   * The first gradient of the last update that was not finite, in the order in which they were computed: the parameters' from the
   * loss backwards.
   */
  notFiniteGradient(): Promise<NotFinite | undefined> {
    return firstNotFinite(this.squares.toReversed());
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
