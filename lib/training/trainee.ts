/** What a run needs of a training. */
import type { Batch } from '../data/batch.js';
import type { DatasetSource } from '../data/dataset.js';
import type { Device } from '../device.js';
import type { Tensor } from '../tensor.js';
import type { AdamW, StepRates } from './optimizer.js';
import type { RunStage } from './stages.js';

/** What a run's cache has done so far for one kind of features. */
export interface CacheCounts {
  /** Entries that were used. */
  read: number;
  /** Entries that were not there, computed and written. */
  computed: number;
  /** Those among them that were there, but not as they were written. */
  damaged: number;
  /** Why no more are written, where that failed. */
  failure?: string;
}

/** That of each kind that is kept: features of pictures by the visual tokenizer, of captions by the text encoder. */
export type CacheReport = Readonly<Partial<Record<'pictures' | 'captions', Readonly<CacheCounts>>>>;

/** What distinguishes one training from another. */
export interface Trainee {
  readonly device: Device;
  readonly source: DatasetSource;
  readonly optimizer: AdamW;
  /** Of networks that train along, such as a discriminator: saved and resumed like `optimizer`. */
  readonly otherOptimizers?: readonly AdamW[];
  /** Parts of the run that follow one another; left out, there is one, as the configuration says. */
  readonly stages?: readonly RunStage[];
  /** How many samples of its batch a step uses, the first ones; left out, all of them. */
  samplesAt?(step: number): number;
  /** Submits one step and resolves with its numbers. `lr` and `weightDecay` are those of this step. */
  step(batch: Batch, step: number, rates: StepRates): Promise<StepNumbers>;
  /** Of the cache, where the training has one. */
  readonly cache?: CacheReport | undefined;
  /** Weights in training, by name. */
  weights(): Iterable<[string, Tensor]>;
}

/** What one step measured. */
export interface StepNumbers {
  readonly loss: number;
  /** Global gradient norm before clipping. */
  readonly gradNorm: number;
  /** Terms of the loss and accuracies, by name. */
  readonly metrics: Readonly<Record<string, number>>;
  /** What is watched for divergence where that is not the loss: a loss with terms that may rise says nothing by itself. */
  readonly watched?: number;
  /** Part of the training in which the step lies, where there are several: each has a level of its own. */
  readonly phase?: string;
}
