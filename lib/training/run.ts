/** The loop that every trainer shares: resume, step, report, save, stop. A trainer brings the step and its tensors. */
import { mkdir } from 'node:fs/promises';
import { BadRows, type BadRowsReport } from '../data/bad_rows.js';
import { pathsOf } from '../data/dataset.js';
import { Loader } from '../data/loader.js';
import type { DatasetSpec, JsonlSpec } from '../data/spec.js';
import { InfinityError } from '../errors.js';
import { removeLeftovers } from '../io/output_file.js';
import type { HostTensor } from '../nn/module.js';
import type { Tensor } from '../tensor.js';
import type { RunConfig } from './config.js';
import { checkWeights } from './not_finite.js';
import type { AdamW } from './optimizer.js';
import { Progress } from './progress.js';
import type { MemoryUse } from './run_log.js';
import { checkSameConfig, type FoundState, loadRunState, saveRunState } from './run_state.js';
import { RunWatch } from './run_watch.js';
import { planStages, type RunStage, ratesAt, sampleAt, stageAt, totalSteps } from './stages.js';
import type { CacheReport, StepNumbers, Trainee } from './trainee.js';

export type { StepNumbers, Trainee } from './trainee.js';

/** What a run tells of a step. */
export interface StepEvent extends StepNumbers {
  readonly step: number;
  readonly iterations: number;
  readonly lr: number;
  readonly samplesPerSecond: number;
  readonly secondsLeft: number;
  readonly memory: MemoryUse;
  /** Set once rows of the dataset were found that no sample can be made of; others take their places. */
  readonly badRows?: BadRowsReport;
  /** Set where the training has a cache. */
  readonly cache?: CacheReport;
  /** Set on the steps whose state was saved. */
  readonly saved?: string;
}

/** Where a run lives, and what may stop it. */
export interface RunOptions {
  /** Directory of the run's states; created when missing, resumed when it holds one. */
  readonly directory: string;
  readonly signal?: AbortSignal;
  /** Told once where a run goes on from. */
  readonly onResume?: (from: Resumed) => void;
}

/** The state that a run goes on from. */
export interface Resumed extends Pick<FoundState, 'path' | 'damaged'> {
  readonly step: number;
}

/** Fields that may change between two parts of a run: they do not touch the weights. */
const FREE = ['save_every', 'generation', 'divergence', 'samples', 'checkpointing', 'cache', 'cache_limit'];

function optimizersOf({ optimizer, otherOptimizers = [] }: Trainee): AdamW[] {
  return [optimizer, ...otherOptimizers];
}

async function snapshot(trainee: Trainee): Promise<Map<string, HostTensor>> {
  const tensors = new Map<string, HostTensor>();
  const add = async (name: string, t: Tensor): Promise<void> => {
    tensors.set(name, { shape: t.shape, data: Float32Array.from(await t.readFloats()) });
  };
  for (const [name, t] of trainee.weights()) await add(`weight.${name}`, t);
  for (const optimizer of optimizersOf(trainee)) for (const [name, t] of optimizer.stateTensors()) await add(name, t);
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
  const state = new Map([...tensors].map(([name, { data }]) => [name, data]));
  for (const optimizer of optimizersOf(trainee)) optimizer.load(state, step);
}

function withoutPaths(dataset: DatasetSpec): object {
  const { path: _, image_root: __, ...rest } = dataset as JsonlSpec;
  return rest;
}

/** What a resumed run must agree with: of a set of files their contents, wherever they lie now. */
function stateConfig(
  config: RunConfig & { readonly stages?: readonly Pick<RunConfig, 'dataset'>[] },
  stages: readonly RunStage[],
): object {
  const digests = new Set(stages.flatMap(({ source: { listing } }) => (listing ? [listing.digest] : [])));
  if (digests.size === 0) return config;
  const parts = config.stages?.map((stage) => ({ ...stage, dataset: withoutPaths(stage.dataset) }));
  return {
    ...config,
    dataset: withoutPaths(config.dataset),
    ...(parts ? { stages: parts } : {}),
    dataset_digest: [...digests].join(' '),
  };
}

/**
 * Runs until `iterations`, resuming from the directory's newest state. Yields once a step. An abort saves the state first
 * and then rejects with the signal's reason.
 * @throws InfinityError NUMERICAL when a number is not finite or the loss diverges, naming step, tensor and last good state;
 *   DISK_FULL, IO_ERROR; the saved states stay
 */
export async function* runTraining(
  trainee: Trainee,
  config: RunConfig,
  options: RunOptions,
): AsyncGenerator<StepEvent> {
  const { directory, signal } = options;
  const { save_every } = config;
  const stages = trainee.stages ?? planStages([{ config, source: trainee.source }]);
  const iterations = totalSteps(stages);
  await mkdir(directory, { recursive: true });
  const agreed = stateConfig(config, stages);
  await removeLeftovers(directory);
  const resumed = await loadRunState(directory);
  let step = 0;
  if (resumed) {
    const { state, path, damaged } = resumed;
    checkSameConfig(state.config, agreed, FREE);
    restore(trainee, state.tensors, state.step);
    step = state.step;
    options.onResume?.({ step, path, damaged });
  }
  await checkWeights(trainee.weights(), resumed ? `the state of step ${step}` : 'the start');
  const watch = await RunWatch.open(directory, step, trainee, config.divergence);
  const sets = pathsOf(stages.map(({ source }) => source));
  const bad = new BadRows(sets, resumed?.state.badRows);
  const save = async (): Promise<string> => {
    await watch.sync();
    const badRows = bad.report().count > 0 ? { badRows: bad.save() } : {};
    return saveRunState(
      directory,
      { step, config: agreed, tensors: await snapshot(trainee), ...badRows },
      watch.highSince,
    );
  };
  let stage = stageAt(stages, step);
  const open = (): Loader => {
    const from = step;
    const wanted = trainee.samplesAt && ((n: number) => trainee.samplesAt!(from + n));
    const batchSize = stage.config.batch_size;
    return new Loader(stage.source, { batchSize, start: sampleAt(stage, from), ahead: 3, wanted, bad });
  };
  let loader = open();
  let progress = new Progress(iterations);
  let lastSaved = step;
  try {
    while (step < iterations) {
      if (signal?.aborted) {
        if (step > lastSaved) await save();
        throw signal.reason;
      }
      const next = stageAt(stages, step);
      if (next !== stage) {
        stage = next;
        await loader.close();
        loader = open();
        progress = new Progress(iterations);
      }
      const rates = ratesAt(stage, step);
      const { lr } = rates;
      const phase = stage.name === undefined ? {} : { phase: stage.name };
      const batch = await loader.next();
      const numbers = { ...(await trainee.step(batch, step, rates)), ...phase };
      step++;
      progress.tick(batch.captions.length);
      const badRows = bad.report();
      const { samplesPerSecond } = progress;
      const memory = await watch.check({ step, lr, ...numbers, samplesPerSecond }, badRows.count);
      let saved: string | undefined;
      if (step % save_every === 0 || step === iterations) {
        saved = await save();
        lastSaved = step;
      }
      yield {
        step,
        iterations,
        lr,
        ...numbers,
        samplesPerSecond,
        secondsLeft: progress.secondsLeft(step),
        memory,
        ...(badRows.count > 0 ? { badRows } : {}),
        ...(trainee.cache ? { cache: structuredClone(trainee.cache) } : {}),
        ...(saved ? { saved } : {}),
      };
    }
  } finally {
    await loader.close();
    await watch.close();
  }
}
