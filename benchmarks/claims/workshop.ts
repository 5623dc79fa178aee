/** Small models that the experiments share: each is trained once, goes on where a kill stopped it, and is kept by its configuration. */
import { mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Device } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import { Checkpoint } from '../../lib/io/checkpoint.js';
import {
  type StepEvent,
  TokenizerTrainer,
  type TokenizerTrainingConfig,
  type Training,
  TransformerTrainer,
  type TransformerTrainingConfig,
} from '../../lib/training/index.js';
import { digest } from './store.js';

/** Raised when training the same configuration would give other models. */
const VERSION = 1;

/** A trained model: the directory of its checkpoint. Its name follows from everything it was made with. */
export interface Made {
  readonly id: string;
  readonly directory: string;
}

export interface WorkshopOptions {
  readonly device: Device;
  readonly signal: AbortSignal;
  /** Hears of every step of a training. */
  readonly onStep?: (event: StepEvent) => void;
}

type Open = (init: Checkpoint | undefined) => Promise<Training>;

/** The models below one directory. */
export class Workshop {
  constructor(
    private readonly directory: string,
    private readonly options: WorkshopOptions,
  ) {}

  /** @param init whose weights are the start */
  tokenizer(config: TokenizerTrainingConfig, init: Made): Promise<Made> {
    const { device } = this.options;
    return this.make({ kind: 'tokenizer', config, init: init.id }, init, (start) =>
      TokenizerTrainer.create(config, { device, init: start }),
    );
  }

  /** @param init whose weights are the start; by default they are drawn from the seed */
  transformer(config: TransformerTrainingConfig, tokenizer: Made, init?: Made): Promise<Made> {
    const { device } = this.options;
    return this.make({ kind: 'transformer', config, tokenizer: tokenizer.id, init: init?.id }, init, async (start) =>
      TransformerTrainer.create(config, {
        device,
        init: start,
        tokenizer: await Checkpoint.open(tokenizer.directory),
      }),
    );
  }

  /** A model that `write` puts into a directory, made from others. */
  async derived(name: object, write: (directory: string) => Promise<void>): Promise<Made> {
    const made = this.named({ kind: 'derived', ...name });
    if (!(await exists(made.directory))) {
      await mkdir(this.directory, { recursive: true });
      await write(made.directory);
    }
    return made;
  }

  private named(what: object): Made {
    const id = digest({ ...what, version: VERSION });
    return { id, directory: join(this.directory, id) };
  }

  private async make(what: object, init: Made | undefined, open: Open): Promise<Made> {
    const made = this.named(what);
    if (await exists(made.directory)) return made;
    const run = join(this.directory, `${made.id}.run`);
    await mkdir(run, { recursive: true });
    const training = await open(init && (await Checkpoint.open(init.directory)));
    try {
      for await (const event of training.run({ directory: run, signal: this.options.signal }))
        this.options.onStep?.(event);
      const exported = join(run, 'checkpoint');
      await training.export(exported);
      await rename(exported, made.directory);
    } finally {
      training.dispose();
    }
    await rm(run, { recursive: true, force: true });
    return made;
  }
}

async function exists(directory: string): Promise<boolean> {
  try {
    await Checkpoint.open(directory);
    return true;
  } catch (error) {
    if (error instanceof InfinityError && error.code === 'MODEL_NOT_FOUND') return false;
    throw error;
  }
}
