/** Parts of a run that follow one another, each with its own data, batch and learning rate. */
import type { DatasetSource } from '../data/dataset.js';
import type { RunConfig } from './config.js';
import { lrFactor } from './lr_schedule.js';
import type { StepRates } from './optimizer.js';

/** What makes a stage. */
export interface StageSettings {
  /** Absent in a run of one stage. */
  readonly name?: string;
  readonly config: Pick<RunConfig, 'iterations' | 'batch_size' | 'optimizer'>;
  readonly source: DatasetSource;
}

/** A stage in its place. */
export interface RunStage extends StageSettings {
  /** Steps of the run before it. */
  readonly firstStep: number;
  /** Number in the run of its first sample, a multiple of its batch. */
  readonly firstSample: number;
}

/** Puts stages one after the other. */
export function planStages<T extends StageSettings>(settings: readonly T[]): (T & RunStage)[] {
  let [firstStep, samples] = [0, 0];
  return settings.map((stage) => {
    const { iterations, batch_size } = stage.config;
    const planned = { ...stage, firstStep, firstSample: Math.ceil(samples / batch_size) * batch_size };
    firstStep += iterations;
    samples = planned.firstSample + iterations * batch_size;
    return planned;
  });
}

/** The stage of a step; the last one for what comes after it. */
export function stageAt<T extends RunStage>(stages: readonly T[], step: number): T {
  return stages.findLast(({ firstStep }) => firstStep <= step)!;
}

/** Steps of all stages. */
export function totalSteps(stages: readonly RunStage[]): number {
  return stages.reduce((sum, { config }) => sum + config.iterations, 0);
}

/** Number in the run of the first sample of a step. */
export function sampleAt({ firstStep, firstSample, config }: RunStage, step: number): number {
  return firstSample + (step - firstStep) * config.batch_size;
}

/** Learning rate and weight decay of a step: every stage has a schedule of its own. */
export function ratesAt({ firstStep, config: { iterations, optimizer: o } }: RunStage, step: number): StepRates {
  const schedule = {
    schedule: o.lr_schedule,
    warmupIterations: o.warmup_iterations,
    maxIterations: iterations,
    startFactor: o.start_factor,
    endFactor: o.end_factor,
  };
  return { lr: o.lr * lrFactor(step - firstStep, schedule), weightDecay: o.weight_decay };
}
