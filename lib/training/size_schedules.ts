/** The sizes that a transformer learns to draw, and the grids of each. */
import { type DatasetSpec, sampleSizes } from '../data/spec.js';
import { describe, InfinityError } from '../errors.js';
import {
  formatGrids,
  isGrids,
  PIXEL_BUDGETS,
  parseGrids,
  pixelSize,
  type Scale,
  type ScaleSchedule,
  sameSchedule,
  TEMPLATE_RATIOS,
  TOKEN_PIXELS,
  templateSchedule,
  validateSchedule,
} from '../tokenizer/schedule.js';
import { MAX_SCALES } from '../transformer/infinity.js';
import { readPart, refuseField } from './config.js';

/** Pictures of one size, and the transformer's grids for them. */
export interface SizeSchedule {
  readonly size: readonly [height: number, width: number];
  readonly schedule: ScaleSchedule;
}

/** What the tokenizer's checkpoint says of its latents. */
export interface LatentGeometry {
  /** Pixels along one side of a latent position. */
  readonly patchSize: number;
  /** A token is a block of 2 x 2 latent positions. */
  readonly patchify: boolean;
  /** `scale_schedule` of its configuration: the latent grids it was trained on; released tokenizers have none. */
  readonly grids: unknown;
}

const budgetSchedules = (pn: (typeof PIXEL_BUDGETS)[number]): ScaleSchedule[] =>
  TEMPLATE_RATIOS.map((template) => templateSchedule(template, pn));

/**
 * `dataset.pn` of a configuration spelled out: the sizes and grids of the official templates at that number of pixels.
 * @throws InfinityError INVALID_ARGUMENT for another number, or where sizes or grids are given as well
 */
export function withBudgetSizes(config: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  const { dataset, scale_schedules } = config;
  if (typeof dataset !== 'object' || dataset === null || !('pn' in dataset)) return config;
  const { pn, ...rest } = dataset as Readonly<Record<string, unknown>>;
  const budget = PIXEL_BUDGETS.find((known) => known === pn);
  if (budget === undefined || rest.kind === 'shapes')
    return refuseField('dataset.pn', `one of ${PIXEL_BUDGETS.join(', ')}, with pictures of your own,`, pn);
  if ('size' in rest || 'sizes' in rest || scale_schedules !== undefined)
    return refuseField('dataset.pn', "nothing beside 'size', 'sizes' or 'scale_schedules'", pn);
  const schedules = budgetSchedules(budget);
  const sizes = schedules.map((schedule) => pixelSize(schedule));
  return { ...config, dataset: { ...rest, sizes }, scale_schedules: schedules.map(formatGrids) };
}

/** Token grids of latent grids. @throws InfinityError INVALID_ARGUMENT where a side is odd */
function ofBlocks(latent: ScaleSchedule): ScaleSchedule {
  return latent.map(([t, h, w]): Scale => {
    if (h % 2 !== 0 || w % 2 !== 0)
      refuseField('transformer.apply_spatial_patchify', 'false for a tokenizer with odd grids', formatGrids(latent));
    return [t, h / 2, w / 2];
  });
}

/** What may be chosen from: the grids that were given, else the tokenizer's own, else the official ones. */
function candidates(
  given: readonly string[] | undefined,
  latent: LatentGeometry,
  tokenPixels: number,
): ScaleSchedule[] {
  if (given) return given.map(parseGrids);
  if (isGrids(latent.grids)) {
    const own = parseGrids(latent.grids);
    return [latent.patchify ? ofBlocks(own) : own];
  }
  return tokenPixels === TOKEN_PIXELS ? [...PIXEL_BUDGETS].flatMap(budgetSchedules) : [];
}

/** A schedule that the transformer can begin: from one token, with an embedding for each scale, none larger than the last. */
function checkSchedule(schedule: ScaleSchedule): ScaleSchedule {
  const [first] = schedule;
  if (first?.[1] !== 1 || first[2] !== 1 || schedule.length > MAX_SCALES)
    refuseField('scale_schedules', `1 to ${MAX_SCALES} grids, the first of one token,`, formatGrids(schedule));
  return readPart('scale_schedules', () => validateSchedule(schedule, formatGrids(schedule)));
}

/**
 * The grids of every size of a dataset.
 * @param given `scale_schedules` of the configuration
 * @throws InfinityError INVALID_ARGUMENT naming a size without grids and the sizes that have some
 */
export function sizeSchedules(
  dataset: DatasetSpec,
  given: readonly string[] | undefined,
  latent: LatentGeometry,
): readonly SizeSchedule[] {
  const tokenPixels = latent.patchSize * (latent.patchify ? 2 : 1);
  const known = candidates(given, latent, tokenPixels);
  return sampleSizes(dataset).map((size) => {
    const fits = (schedule: ScaleSchedule) => pixelSize(schedule, tokenPixels).every((n, i) => n === size[i]);
    const schedule = known.find(fits);
    if (schedule) return { size, schedule: checkSchedule(schedule) };
    const sizes = known.map((other) => pixelSize(other, tokenPixels).join(' x ')).join(', ');
    const field = dataset.size === undefined ? 'dataset.sizes' : 'dataset.size';
    throw new InfinityError(
      'INVALID_ARGUMENT',
      `Expected ${sizes || 'no size'} for '${field}' but received ${describe(size)}.`,
      {
        value: size,
        fields: { field },
        cure: `Choose a size that has grids, or name its grids in 'scale_schedules': from 1 to ${size.map((n) => n / tokenPixels).join('x')} tokens of ${tokenPixels} pixels.`,
      },
    );
  });
}

/** Different schedules, those that stand last first. */
export function allSchedules(sizes: readonly SizeSchedule[]): readonly ScaleSchedule[] {
  const all: ScaleSchedule[] = [];
  for (const { schedule } of sizes.toReversed())
    if (!all.some((other) => sameSchedule(other, schedule))) all.push(schedule);
  return all;
}
