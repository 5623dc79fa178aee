/** From a config file and checkpoints to a training. */
import { Device } from '../device.js';
import { InfinityError } from '../errors.js';
import { Checkpoint } from '../io/checkpoint.js';
import type { RunConfig } from './config.js';
import type { RunOptions, StepEvent } from './run.js';
import { openStart } from './start.js';
import { TokenizerTrainer } from './tokenizer_trainer.js';
import type { Trainee } from './trainee.js';
import { TransformerTrainer } from './transformer_trainer.js';

export type TrainingKind = 'tokenizer' | 'transformer';

/** What a training starts from. */
export interface OpenTrainingOptions {
  /** A parsed config file; see `models/shapes/train`. */
  readonly config: unknown;
  /** Checkpoint directory whose weights are the start, or official weights of the network that is trained. */
  readonly init?: string;
  /** Checkpoint directory with the trained tokenizer; the transformer needs it. */
  readonly tokenizer?: string;
  /** Of the processor; given, the training gets a device of its own. */
  readonly threads?: number;
  /** Folder of what is computed once and kept, instead of the config's `cache`; false: none, whatever the config says. */
  readonly cache?: string | false;
  /** Default: the processor. */
  readonly device?: Device;
}

/** A training that runs, resumes and exports itself. */
export interface Training extends Trainee {
  readonly config: RunConfig;
  /** What is on and off in this training, one line. */
  readonly summary?: string;
  /** What of its start it could not use, a line each. */
  readonly notices?: readonly string[];
  run(options: RunOptions): AsyncGenerator<StepEvent>;
  /** Writes the averaged weights in bf16 as a checkpoint directory. */
  export(directory: string): Promise<void>;
  dispose(): void;
}

/** @throws InfinityError INVALID_ARGUMENT, MODEL_NOT_FOUND, CHECKPOINT_INVALID, CHECKPOINT_CONFIG_MISMATCH */
export async function openTraining(kind: TrainingKind, options: OpenTrainingOptions): Promise<Training> {
  const { threads, cache } = options;
  const config = cache === undefined ? options.config : { ...(options.config as object), cache: cache || undefined };
  const device = options.device ?? (threads === undefined ? Device.default() : Device.create('cpu', { threads }));
  const network = kind === 'tokenizer' ? 'vae' : 'transformer';
  const init = options.init === undefined ? undefined : await openStart(options.init, network);
  if (kind === 'tokenizer') return TokenizerTrainer.create(config, { device, init });
  if (options.tokenizer === undefined)
    throw new InfinityError('INVALID_ARGUMENT', 'Expected a checkpoint with the trained tokenizer but received none.', {
      cure: 'Pass --tokenizer DIR: the directory that "train tokenizer" exported.',
    });
  return TransformerTrainer.create(config, { device, init, tokenizer: await Checkpoint.open(options.tokenizer) });
}
