/**
 * One update of the transformer out of micro-batches: noise, teacher forcing, cross entropy, gradients, AdamW. Source: Infinity,
 * trainer.py (train_step).
 */
import { invalidArgument } from '../errors.js';
import { statistic } from '../ops/run.js';
import { slice } from '../ops/shape.js';
import { type Gradients, Tape } from '../tape.js';
import { scope, Tensor } from '../tensor.js';
import { type ScaleSchedule, tokenCount } from '../tokenizer/schedule.js';
import type { BitLoss, BitLossOptions } from '../transformer/head.js';
import type { ForwardOptions, InfinityTransformer } from '../transformer/infinity.js';
import type { AdamW, StepRates } from './optimizer.js';
import {
  BitwiseSelfCorrection,
  type RecordedDraws,
  type SelfCorrected,
  type SelfCorrectionConfig,
  type StepDraws,
} from './self_correction.js';

/** What holds for every update of a run. */
export interface TransformerUpdateOptions extends Omit<BitLossOptions, 'schedule'> {
  readonly correction: SelfCorrectionConfig;
  /** Every block is computed again in the backward pass instead of keeping what it computed. Changes no bit. */
  readonly checkpointing?: boolean;
}

/** Inputs and labels of a micro-batch, for the scales that are learned. */
export interface MicroBatch extends Pick<SelfCorrected, 'inputs_BLD' | 'labels_BLP' | 'strengths'> {
  readonly schedule: ScaleSchedule;
}

/** Adds up the gradients of micro-batches, one after the other: the activations of only one exist at a time. */
export class TransformerUpdate {
  private readonly correction: BitwiseSelfCorrection;
  private sum: Gradients | undefined;

  constructor(
    private readonly model: InfinityTransformer,
    private readonly optimizer: AdamW,
    private readonly options: TransformerUpdateOptions,
  ) {
    const { apply_spatial_patchify: patchify } = model.config;
    this.correction = new BitwiseSelfCorrection({ ...options.correction, patchify });
  }

  /**
   * @param features_BHWd of the frozen tokenizer at the finest latent grid of `schedule`
   * @param schedule the transformer's grids
   * @param scales how many of them, from the first on, are learned
   */
  prepare(
    features_BHWd: Tensor,
    schedule: ScaleSchedule,
    draws: StepDraws | RecordedDraws,
    scales = schedule.length,
  ): MicroBatch {
    const trained = schedule.slice(0, scales);
    return scope(() => {
      const inputs = this.model.dtype === 'bf16' ? 'bf16' : undefined;
      const { inputs_BLD, labels_BLP, strengths } = this.correction.apply(features_BHWd, schedule, draws, { inputs });
      const rest = { strengths, schedule: trained };
      if (trained.length === schedule.length) return { inputs_BLD, labels_BLP, ...rest };
      const count = tokenCount(trained);
      const first = count > 1 ? slice(inputs_BLD!, 1, 0, count - 1) : null;
      return { inputs_BLD: first, labels_BLP: slice(labels_BLP, 1, 0, count), ...rest };
    });
  }

  /**
   * Computes a loss and adds `share` times its gradients to those of this update.
   * @param given what the transformer needs besides; called while its gradients are recorded, those of the text included
   */
  accumulate(
    { inputs_BLD, labels_BLP, schedule }: MicroBatch,
    share: number,
    given: () => Omit<ForwardOptions, 'schedule' | 'checkpointing'>,
  ): BitLoss {
    const { correction: _, ...how } = this.options;
    const tape = new Tape().watch(...this.optimizer.parameters);
    const out = tape.run(() => this.model.loss(inputs_BLD, labels_BLP, { ...given(), ...how, schedule }));
    const cotangent = Tensor.from([share], [], statistic(this.model), this.model.device);
    const gradients = tape.backward([{ of: out.loss, cotangent }]);
    cotangent.dispose();
    if (this.sum) this.sum.add(gradients);
    else this.sum = gradients;
    return out;
  }

  /** What has been added up since the last update. */
  get gradients(): Gradients {
    return this.sum ?? invalidArgument('an update', 'the gradients of at least one micro-batch', this.sum);
  }

  /** Ends the update. @returns the gradient's global norm before clipping, [], which the caller disposes */
  update(rates: StepRates): Tensor {
    const norm = this.optimizer.update(this.gradients, rates);
    this.dispose();
    return norm;
  }

  /** Forgets gradients of an update that did not come to its end. */
  dispose(): void {
    this.sum?.dispose();
    this.sum = undefined;
  }
}
