/** What a training leaves beside its states: the checkpoint, samples drawn with it, the report, event files. */
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { InfinityError } from '../errors.js';
import { drawTrainingSamples } from '../eval/training_samples.js';
import { writeOutput } from '../io/output_file.js';
import type { Training } from '../training/open.js';
import { REPORT_FILE, sampleGridPath, writeReport } from '../training/report/index.js';
import type { StepEvent } from '../training/run.js';
import { readRunLog } from '../training/run_log.js';
import { savedStates } from '../training/run_state.js';
import { TensorBoardWriter } from '../training/tensorboard.js';

export interface OutputOptions {
  /** Of the run. */
  readonly directory: string;
  readonly signal: AbortSignal;
  readonly tensorboard?: boolean | undefined;
}

/** Failures that end a training. Without a grid of samples it learns as well, so that others are told and passed over. */
const FATAL = ['DISK_FULL', 'IO_ERROR', 'ABORTED'];

/** Follows one run. */
export class TrainingOutputs {
  readonly checkpoint: string;
  private board: TensorBoardWriter | undefined;

  constructor(
    private readonly training: Training,
    private readonly options: OutputOptions,
  ) {
    this.checkpoint = join(options.directory, 'checkpoint');
  }

  /** After every step. @throws InfinityError IO_ERROR, DISK_FULL */
  async step({ step, loss, gradNorm, lr, samplesPerSecond, metrics, memory }: StepEvent): Promise<void> {
    if (!this.options.tensorboard) return;
    this.board ??= await TensorBoardWriter.create(this.options.directory, step - 1);
    const groups = { metrics, memory, optimizer: { gradNorm, lr }, speed: { samplesPerSecond } };
    const named = Object.entries(groups).flatMap(([group, values]) =>
      Object.entries(values).map(([name, value]) => [`${group}/${name}`, value] as const),
    );
    await this.board.scalars(step, { loss, ...Object.fromEntries(named) });
  }

  /** After every saved state. @throws InfinityError IO_ERROR, DISK_FULL, ABORTED */
  async saved(step: number): Promise<void> {
    await this.training.export(this.checkpoint);
    await this.samples(step);
    await this.report();
  }

  /** Only what there is to tell of the last step. @throws InfinityError IO_ERROR, DISK_FULL */
  async export(): Promise<void> {
    await this.training.export(this.checkpoint);
    await this.report();
  }

  async close(): Promise<void> {
    await this.board?.close();
  }

  private async samples(step: number): Promise<void> {
    const { directory, signal } = this.options;
    const grid = await drawTrainingSamples(this.training, { checkpoint: this.checkpoint, step, signal }).catch(
      (error) => {
        if (!(error instanceof InfinityError) || FATAL.includes(error.code)) throw error;
        process.stderr.write(`node-infinity: no samples of step ${step}: ${error.message}\n`);
        return undefined;
      },
    );
    if (!grid) return;
    const [path, png] = [sampleGridPath(directory, step), await grid.toBuffer('png')];
    await mkdir(dirname(path), { recursive: true });
    await writeOutput(path, [png]);
    await this.board?.picture(step, 'samples', { width: grid.width, height: grid.height, png });
  }

  private async report(): Promise<void> {
    const { directory } = this.options;
    // A run that was finished by a version without a log has nothing to tell.
    for await (const _ of readRunLog(directory)) return writeReport([directory], join(directory, REPORT_FILE));
  }
}

/** An error that ended a training, with where to go on from where that is in question. */
export async function whereItStands(error: unknown, directory: string): Promise<unknown> {
  if (!(error instanceof InfinityError) || error.code !== 'DISK_FULL') return error;
  const [last] = await savedStates(directory);
  const states = last ? ` The state of step ${last.step} is safe: ${last.path}.` : '';
  return new InfinityError('DISK_FULL', `${error.statement}${states}`, {
    value: error.value,
    fields: { ...error.fields, lastGood: last?.path },
    cure: `Free some space, then run the same command again: it goes on ${last ? 'from there' : 'from the start'}.`,
    cause: error,
  });
}
