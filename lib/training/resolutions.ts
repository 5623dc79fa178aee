/**
 * Which picture size a step trains on: one, or in turn several that share a crop, drawn by the number of the step alone.
 * Source: BitVAE, train.py and bitvae/data/data.py (multiscale_training), stage 2 of the published recipe.
 */
import { type DatasetSpec, type PictureSize, sampleSize } from '../data/spec.js';
import { InfinityError } from '../errors.js';
import { RandomStream, uniformDraw } from '../philox.js';
import { finestGrid, isGrids, parseGrids, type ScaleSchedule } from '../tokenizer/schedule.js';
import { SCHEDULE_MODES, type ScheduleMode, tokenizerSchedule } from '../tokenizer/schedule_modes.js';
import { refuseField } from './config.js';

/** One entry of `resolutions`. */
export interface ResolutionConfig {
  readonly size: PictureSize;
  /** Pictures of a step at this size, at most the run's `batch_size`. */
  readonly batch_size: number;
}

/** The fields of a config that decide what a step sees. */
export interface SizesConfig {
  readonly dataset: DatasetSpec;
  readonly batch_size: number;
  /** Grids from coarse to fine such as "1 2 4x2", or a published mode such as "dense". */
  readonly schedule: string;
  readonly resolutions?: readonly ResolutionConfig[];
}

/** What a step sees. */
export interface Resolution {
  /** Pixels. */
  readonly size: readonly [height: number, width: number];
  /** The first so many pictures of the step's batch. */
  readonly batch: number;
  readonly schedule: ScaleSchedule;
}

const isMode = (name: unknown): name is ScheduleMode => SCHEDULE_MODES.some((mode) => mode === name);

/** Whether this names a schedule: grids or a mode. */
export function isSchedule(value: unknown): boolean {
  return isGrids(value) || isMode(value);
}

/** Whether this is a list of sizes with their batches. */
export function isResolutions(value: unknown): boolean {
  const isEntry = (entry: unknown): boolean => {
    if (typeof entry !== 'object' || entry === null) return false;
    const { size, batch_size, ...rest } = entry as Record<string, unknown>;
    const sides = Array.isArray(size) && size.length === 2 ? size : [size];
    return (
      [...sides, batch_size].every((n) => Number.isSafeInteger(n) && (n as number) > 0) && !Object.keys(rest).length
    );
  };
  return Array.isArray(value) && value.length > 0 && value.every(isEntry);
}

function modeSchedule(mode: ScheduleMode, rows: number, columns: number): ScaleSchedule {
  try {
    return tokenizerSchedule(mode, rows, columns);
  } catch (error) {
    if (!(error instanceof InfinityError)) throw error;
    const known = (error.fields.sizes as readonly string[]).join(', ');
    return refuseField(
      'schedule',
      `grids, or a mode that knows a latent of ${rows} x ${columns} ("${mode}": ${known}),`,
      mode,
    );
  }
}

/** The schedule of a latent; explicit grids serve a smaller one with those up to its own, as the published ones do. */
function scheduleFor(schedule: string, [rows, columns]: readonly [number, number]): ScaleSchedule {
  if (isMode(schedule)) return modeSchedule(schedule, rows, columns);
  const grids = parseGrids(schedule);
  const last = grids.findIndex(([, h, w]) => h === rows && w === columns);
  if (last < 0) refuseField('schedule', `grids of which one is ${rows} x ${columns}`, schedule);
  return grids.slice(0, last + 1);
}

/**
 * The sizes of a training, the dataset's own first where it is the only one.
 * @throws InfinityError INVALID_ARGUMENT naming the field when sizes, schedule and patches do not fit each other
 */
export function resolutionsOf(config: SizesConfig, patchSize: number): readonly Resolution[] {
  const { dataset, batch_size, schedule, resolutions } = config;
  const [height, width] = sampleSize(dataset);
  const patches = (n: number): boolean => n % patchSize === 0;
  if (!resolutions) {
    if (!patches(height) || !patches(width)) refuseField('dataset.size', `multiples of ${patchSize}`, dataset.size);
    const grids = isMode(schedule)
      ? scheduleFor(schedule, [height / patchSize, width / patchSize])
      : parseGrids(schedule);
    const [rows, columns] = finestGrid(grids).map((n) => n * patchSize) as [number, number];
    if (rows !== height || columns !== width)
      refuseField('dataset.size', `${rows} x ${columns}, the finest grid of the tokenizer in pixels,`, dataset.size);
    return [{ size: [height, width], batch: batch_size, schedule: grids }];
  }
  const listed = resolutions.map(({ size, batch_size: batch }): Resolution => {
    const [h, w] = typeof size === 'number' ? [size, size] : size;
    if (!patches(h) || !patches(w) || h > height || h * width !== w * height)
      refuseField(
        'resolutions',
        `sizes in multiples of ${patchSize} and in the proportions of dataset.size, at most that large,`,
        size,
      );
    if (batch > batch_size) refuseField('resolutions', `a batch_size of at most ${batch_size}, the run's,`, batch);
    return { size: [h, w], batch, schedule: scheduleFor(schedule, [h / patchSize, w / patchSize]) };
  });
  if (!listed.some(({ size }) => size[0] === height))
    refuseField('resolutions', `one of ${height} x ${width}, dataset.size,`, resolutions);
  return listed;
}

/** The largest of them: what a checkpoint is drawn with. */
export function largestOf(resolutions: readonly Resolution[]): Resolution {
  return resolutions.reduce((a, b) => (b.size[0] > a.size[0] ? b : a));
}

/** What step `step` sees, each resolution equally often. */
export function resolutionAt(resolutions: readonly Resolution[], seed: number, step: number): Resolution {
  const u = uniformDraw(seed, { image: step, stream: RandomStream.resolution });
  return resolutions[Math.floor(u * resolutions.length)]!;
}
