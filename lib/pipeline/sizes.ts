/** The picture sizes of a checkpoint, the grids that each is predicted on, and the choice of one for a request. */
import { InfinityError, invalidArgument } from '../errors.js';
import {
  isGrids,
  PIXEL_BUDGETS,
  parseGrids,
  patchifySchedule,
  pixelSize,
  type ScaleSchedule,
  TEMPLATE_RATIOS,
  TOKEN_PIXELS,
  templateSchedule,
  validateSchedule,
} from '../tokenizer/schedule.js';

/** Pixels. */
export type Size = readonly [height: number, width: number];

export interface SizeChoice {
  readonly size: Size;
  readonly schedule: ScaleSchedule;
  /** The official height / width template of the schedule, which is the ratio itself up to its third decimal. */
  readonly template?: number;
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
  if (schedules) return schedules.map((schedule) => ({ size: pixelSize(schedule, tokenPixels), schedule }));
  return [...PIXEL_BUDGETS].reverse().flatMap((budget) =>
    TEMPLATE_RATIOS.map((template) => {
      const schedule = templateSchedule(template, budget);
      return { size: pixelSize(schedule, tokenPixels), schedule, template };
    }),
  );
}

/**
 * The sizes of a visual tokenizer that comes without a transformer.
 *
 * @param grids what it was trained on, from coarse to fine; left out, the official buckets, on two by two positions of a tokenizer
 *   of stride 8 as the released models use it
 * @throws InfinityError CHECKPOINT_INVALID
 */
export function tokenizerSizes(grids: string | undefined, patchPixels: number): readonly SizeChoice[] {
  if (grids === undefined && (patchPixels === TOKEN_PIXELS || 2 * patchPixels === TOKEN_PIXELS)) {
    const patchify = patchPixels !== TOKEN_PIXELS;
    return checkpointSizes(undefined, TOKEN_PIXELS).map(({ schedule, ...choice }) => ({
      ...choice,
      schedule: patchify ? patchifySchedule(schedule) : schedule,
    }));
  }
  // Text that is no list of grids is left to `validateSchedule`, which names the file.
  const scales = isGrids(grids) ? parseGrids(grids).map((scale) => [...scale]) : grids;
  const schedule = validateSchedule(scales, 'scale_schedule of vae/config.json');
  return [{ size: pixelSize(schedule, patchPixels), schedule }];
}

/** The choice with the smallest distance; the first one of equals. */
function closest(choices: readonly SizeChoice[], distance: (choice: SizeChoice) => number): SizeChoice {
  return choices.reduce((best, choice) => (distance(choice) < distance(best) ? choice : best));
}

const areaOf = ([height, width]: Size): number => height * width;
/** Height divided by width, as the official templates are named. */
const ratioOf = ({ size: [height, width], template }: SizeChoice): number => template ?? height / width;

/**
 * The size that changes a picture of `size` the least: first the shape whose height / width is nearest (the first of equals, in the
 * order of the official templates), then the number of pixels. Source: Infinity, infinity/utils/dynamic_resolution.py.
 */
export function nearestSize(choices: readonly SizeChoice[], [height, width]: Size): SizeChoice {
  const shape = ratioOf(closest(choices, (choice) => Math.abs(height / width - ratioOf(choice))));
  const alike = choices.filter((choice) => Math.abs(Math.log(ratioOf(choice) / shape)) < 0.02);
  return closest(alike, ({ size }) => Math.abs(Math.log(areaOf(size) / (height * width))));
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
    const wanted = aspect ?? fallback[1] / fallback[0];
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
