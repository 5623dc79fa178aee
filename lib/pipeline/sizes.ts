/** The picture sizes of a checkpoint, the grids that each is predicted on, and the choice of one for a request. */
import { InfinityError, invalidArgument } from '../errors.js';
import {
  isGrids,
  PIXEL_BUDGETS,
  parseGrids,
  pixelSize,
  type ScaleSchedule,
  TEMPLATE_RATIOS,
  templateSchedule,
  validateSchedule,
} from '../tokenizer/schedule.js';

/** Pixels. */
export type Size = readonly [height: number, width: number];

export interface SizeChoice {
  readonly size: Size;
  readonly schedule: ScaleSchedule;
}

export interface SizeRequest {
  /** Height and width in pixels. */
  readonly size?: Size | undefined;
  /** Width divided by height, where no size is given: the closest of the checkpoint is taken. */
  readonly aspect?: number | undefined;
  /** About how many pixels, with or without `aspect`. */
  readonly pixels?: number | undefined;
  /** Take the nearest size where the checkpoint does not have the one that was asked for. */
  readonly nearest?: boolean | undefined;
}

export const formatSize = ([height, width]: Size): string => `${height}x${width}`;
const same = (a: Size, b: Size): boolean => a[0] === b[0] && a[1] === b[1];

/**
 * The sizes of a checkpoint; the first is its default where it names none.
 *
 * @param schedules `scale_schedules` of transformer/config.json; left out, the official buckets hold
 * @param tokenPixels side in pixels of a token of the finest grid
 */
export function checkpointSizes(
  schedules: readonly ScaleSchedule[] | undefined,
  tokenPixels: number,
): readonly SizeChoice[] {
  const official = (): ScaleSchedule[] =>
    [...PIXEL_BUDGETS].reverse().flatMap((budget) => TEMPLATE_RATIOS.map((ratio) => templateSchedule(ratio, budget)));
  return (schedules ?? official()).map((schedule) => ({ size: pixelSize(schedule, tokenPixels), schedule }));
}

/** The size of a visual tokenizer that comes without a transformer. @throws InfinityError CHECKPOINT_INVALID */
export function tokenizerSize(grids: string, patchPixels: number): SizeChoice {
  // Text that is no list of grids is left to `validateSchedule`, which names the file.
  const scales = isGrids(grids) ? parseGrids(grids).map((scale) => [...scale]) : grids;
  const schedule = validateSchedule(scales, 'scale_schedule of vae/config.json');
  return { size: pixelSize(schedule, patchPixels), schedule };
}

/** The choice with the smallest distance; the first one of equals. */
function closest(choices: readonly SizeChoice[], distance: (size: Size) => number): SizeChoice {
  return choices.reduce((best, choice) => (distance(choice.size) < distance(best.size) ? choice : best));
}

const aspectOf = ([height, width]: Size): number => width / height;
const areaOf = ([height, width]: Size): number => height * width;
const ratio = (a: number, b: number): number => Math.abs(Math.log(a / b));

/** The size that changes a picture of `size` the least: shape first, then number of pixels. */
export function nearestSize(choices: readonly SizeChoice[], size: Size): SizeChoice {
  const shape = aspectOf(closest(choices, (s) => ratio(aspectOf(s), aspectOf(size))).size);
  const alike = choices.filter((choice) => ratio(aspectOf(choice.size), shape) < 0.02);
  return closest(alike, (s) => ratio(areaOf(s), areaOf(size)));
}

function positive(name: string, value: number | undefined): void {
  if (value !== undefined && !(Number.isFinite(value) && value > 0))
    invalidArgument(name, 'a positive number', value, `Correct ${name}, or leave it out.`);
}

/**
 * The size of a request; the checkpoint's default where it asks for nothing.
 *
 * @throws InfinityError INVALID_ARGUMENT, UNSUPPORTED_SIZE that lists the sizes
 */
export function chooseSize(choices: readonly SizeChoice[], fallback: Size, request: SizeRequest): SizeChoice {
  const { size, aspect, pixels, nearest = false } = request;
  positive('aspect', aspect);
  positive('pixels', pixels);
  if (typeof nearest !== 'boolean') invalidArgument('nearest', 'true or false', nearest, 'Pass true, or leave it out.');
  if (size === undefined) {
    const wanted = aspect ?? aspectOf(fallback);
    const area = pixels ?? areaOf(fallback);
    return nearestSize(choices, [Math.sqrt(area / wanted), Math.sqrt(area * wanted)]);
  }
  if (aspect !== undefined || pixels !== undefined)
    invalidArgument('size', 'either size or aspect and pixels', size, 'Leave one of them out.');
  const valid = Array.isArray(size) && size.length === 2 && size.every((n) => Number.isInteger(n) && n > 0);
  if (!valid) invalidArgument('size', '[height, width] in whole pixels', size, 'Pass two positive integers.');
  const found = choices.find((choice) => same(choice.size, size));
  if (found) return found;
  if (nearest) return nearestSize(choices, size);
  const sizes = choices.map((choice) => formatSize(choice.size));
  throw new InfinityError('UNSUPPORTED_SIZE', `Expected a size of this model but received ${formatSize(size)}.`, {
    value: size,
    cure: `Use one of ${sizes.join(', ')} (height x width), or ask for the nearest.`,
    fields: { sizes: choices.map((choice) => choice.size) },
  });
}
