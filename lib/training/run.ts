/** The loop that every trainer shares: resume, step, report, save, stop. A trainer brings the step and its tensors. */
import { mkdir } from 'node:fs/promises';
import type { BadRowsReport } from '../data/bad_rows.js';
import type { Batch } from '../data/batch.js';
import type { DatasetSource } from '../data/dataset.js';
import { Loader } from '../data/loader.js';
import { InfinityError } from '../errors.js';
import type { HostTensor } from '../nn/module.js';
import type { Tensor } from '../tensor.js';
import type { RunConfig } from './config.js';
import { lrFactor } from './lr_schedule.js';
import type { AdamW, StepRates } from './optimizer.js';
import { Progress } from './progress.js';
import { checkSameConfig, loadRunState, saveRunState } from './run_state.js';

/** One line of a run's log. */
export interface StepEvent {
  readonly step: number;
  readonly iterations: number;
  readonly loss: number;
  /** Global gradient norm before clipping. */
  readonly gradNorm: number;
  readonly lr: number;
  readonly samplesPerSecond: number;
  readonly secondsLeft: number;
  /** Terms of the loss and accuracies, by name. */
  readonly metrics: Readonly<Record<string, number>>;
  /** Set once rows of the dataset were found that no sample can be made of; others take their places. */
  readonly badRows?: BadRowsReport;
  /** Set on the steps whose state was saved. */
  readonly saved?: string;
}

/** What distinguishes one training from another. */
export interface Trainee {
  readonly source: DatasetSource;
  readonly optimizer: AdamW;
  /** Submits one step and resolves with its numbers. `lr` and `weightDecay` are those of this step. */
  step(batch: Batch, step: number, rates: StepRates): Promise<StepNumbers>;
  /** Weights in training, by name. */
  weights(): Iterable<[string, Tensor]>;
}

/** What one step measured. */
export interface StepNumbers {
  readonly loss: number;
  readonly gradNorm: number;
  readonly metrics: Readonly<Record<string, number>>;
}

/** Where a run lives, and what may stop it. */
export interface RunOptions {
  /** Directory of the run's states; created when missing, resumed when it holds one. */
  readonly directory: string;
  readonly signal?: AbortSignal;
}

/** Fields that may change between two parts of a run: they do not touch the weights. */
const FREE = ['save_every', 'generation'];

async function snapshot(trainee: Trainee): Promise<Map<string, HostTensor>> {
  const tensors = new Map<string, HostTensor>();
  const add = async (name: string, t: Tensor): Promise<void> => {
    tensors.set(name, { shape: t.shape, data: Float32Array.from(await t.readFloats()) });
  };
  for (const [name, t] of trainee.weights()) await add(`weight.${name}`, t);
  for (const [name, t] of trainee.optimizer.stateTensors()) await add(name, t);
  return tensors;
}

function restore(trainee: Trainee, tensors: ReadonlyMap<string, HostTensor>, step: number): void {
  for (const [name, t] of trainee.weights()) {
    const saved = tensors.get(`weight.${name}`);
    if (saved?.data.length !== t.size)
      throw new InfinityError(
        'CHECKPOINT_CONFIG_MISMATCH',
        `The saved state does not hold weight '${name}' of this model.`,
        {
          value: name,
          cure: 'Resume with the configuration that the run was started with.',
        },
      );
    t.write(saved.data);
  }
  trainee.optimizer.load(new Map([...tensors].map(([name, { data }]) => [name, data])), step);
}

/** What a resumed run must agree with: of a set of files their contents, wherever they lie now. */
function stateConfig(config: RunConfig, { spec, listing }: DatasetSource): object {
  if (!listing || spec.kind === 'shapes') return config;
  const { path: _, ...dataset } = spec;
  return { ...config, dataset, dataset_digest: listing.digest };
}

/**
 * Runs until `iterations`, resuming from the directory's newest state. Yields once a step. An abort saves the state first
 * and then rejects with the signal's reason.
 * @throws InfinityError NUMERICAL when the loss or the gradient is not finite; the last saved state stays
 */
export async function* runTraining(
  trainee: Trainee,
  config: RunConfig,
  options: RunOptions,
): AsyncGenerator<StepEvent> {
  const { directory, signal } = options;
  const { iterations, batch_size, save_every, optimizer: o } = config;
  await mkdir(directory, { recursive: true });
  const agreed = stateConfig(config, trainee.source);
  const resumed = await loadRunState(directory);
  let step = 0;
  if (resumed) {
    checkSameConfig(resumed.config, agreed, FREE);
    restore(trainee, resumed.tensors, resumed.step);
    step = resumed.step;
  }
  const save = async (): Promise<string> =>
    saveRunState(directory, { step, config: agreed, tensors: await snapshot(trainee) });
  const schedule = {
    schedule: o.lr_schedule,
    warmupIterations: o.warmup_iterations,
    maxIterations: iterations,
    startFactor: o.start_factor,
    endFactor: o.end_factor,
  };
  const loader = new Loader(trainee.source, { batchSize: batch_size, start: step * batch_size, ahead: 3 });
  const progress = new Progress(iterations, batch_size);
  let lastSaved = step;
  try {
    while (step < iterations) {
      if (signal?.aborted) {
        if (step > lastSaved) await save();
        throw signal.reason;
      }
      const lr = o.lr * lrFactor(step, schedule);
      const numbers = await trainee.step(await loader.next(), step, { lr, weightDecay: o.weight_decay });
      if (!Number.isFinite(numbers.loss) || !Number.isFinite(numbers.gradNorm))
        throw new InfinityError(
          'NUMERICAL',
          `The loss of step ${step} is ${numbers.loss}, its gradient norm ${numbers.gradNorm}.`,
          {
            value: numbers.loss,
            fields: { step, lastSaved },
            cure: 'Lower optimizer.lr or optimizer.clip in the config and start a run in another directory.',
          },
        );
      step++;
      progress.tick();
      let saved: string | undefined;
      if (step % save_every === 0 || step === iterations) {
        saved = await save();
        lastSaved = step;
      }
      const badRows = loader.badRows();
      yield {
        step,
        iterations,
        lr,
        ...numbers,
        samplesPerSecond: progress.samplesPerSecond,
        secondsLeft: progress.secondsLeft(step),
        ...(badRows.count > 0 ? { badRows } : {}),
        ...(saved ? { saved } : {}),
      };
    }
  } finally {
    await loader.close();
  }
}
