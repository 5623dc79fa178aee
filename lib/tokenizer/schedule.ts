/**
 * Scale schedules: the coarse-to-fine list of grids that one picture is predicted on.
 * Source: Infinity, infinity/utils/dynamic_resolution.py.
 */
import { describe, InfinityError, invalidArgument } from '../errors.js';

/** One scale: time extent (1 for still pictures), rows, columns, counted in tokens of 16 x 16 pixels. */
export type Scale = readonly [t: number, h: number, w: number];
/** Scales in the order of prediction; the last one is the finest. */
export type ScaleSchedule = readonly Scale[];

export const PIXEL_BUDGETS = ['0.06M', '0.25M', '0.60M', '1M'] as const;
export type PixelBudget = (typeof PIXEL_BUDGETS)[number];

/** Pixels along one side of a token of the transformer's finest grid. */
export const TOKEN_PIXELS = 16;
/** More scales than any published schedule has (28); bounds what a foreign config can ask for. */
const MAX_SCALES = 64;
const MAX_EXTENT = 1024;

/** A budget is a prefix of the ratio's grids. */
const SCALES_PER_BUDGET: Readonly<Record<PixelBudget, number>> = { '0.06M': 7, '0.25M': 10, '0.60M': 12, '1M': 13 };

/** Time extents of the sibling video models; still pictures use 1 everywhere. */
const VIDEO_TIME_EXTENTS = [1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 17, 21];

/** Height / width -> the grids of the full (1M) schedule, "h" for squares. Wide pictures mirror the tall ones. */
const BASE_GRIDS: ReadonlyArray<readonly [ratio: number, grids: string]> = [
  [1.0, '1 2 4 6 8 12 16 20 24 32 40 48 64'],
  [1.25, '1 2 3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56'],
  [1.333, '1 2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54'],
  [1.5, '1 2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52'],
  [1.75, '1 2 3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48'],
  [2.0, '1 2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45'],
  [2.5, '1 2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40'],
  [3.0, '1 2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37'],
];

/** Whether this is a list of grids as `parseGrids` reads them. */
export function isGrids(value: unknown): value is string {
  return typeof value === 'string' && /^[1-9]\d*(x[1-9]\d*)?( [1-9]\d*(x[1-9]\d*)?)*$/.test(value);
}

/** Parses "1 2 5x4" into scales of time extent 1; a single number is a square. @throws InfinityError INVALID_ARGUMENT */
export function parseGrids(text: string): ScaleSchedule {
  if (!isGrids(text)) invalidArgument('grids', 'a list like "1 2 5x4"', text);
  return text.split(' ').map((grid): Scale => {
    const [h, w] = grid.split('x').map(Number);
    return [1, h!, w ?? h!];
  });
}

/** The inverse of `parseGrids`, for schedules of still pictures. */
export function formatGrids(schedule: ScaleSchedule): string {
  return schedule.map(([, h, w]) => (h === w ? `${h}` : `${h}x${w}`)).join(' ');
}

function buildTemplates(): ReadonlyMap<number, ScaleSchedule> {
  const templates = new Map<number, ScaleSchedule>();
  for (const [ratio, grids] of BASE_GRIDS) {
    const schedule = parseGrids(grids);
    templates.set(ratio, schedule);
    // Truncation, not rounding, names the mirrored ratio: 1.5 -> 0.666.
    if (ratio !== 1) {
      templates.set(
        Math.floor(1000 / ratio) / 1000,
        schedule.map(([t, h, w]): Scale => [t, w, h]),
      );
    }
  }
  return templates;
}

const FULL_SCHEDULES = buildTemplates();

/** The fifteen height / width templates in table order, which decides ties of `nearestTemplate`. */
export const TEMPLATE_RATIOS: readonly number[] = [...FULL_SCHEDULES.keys()];

/** The first template with the smallest |height / width - template|. Any unit will do; both must be positive. */
export function nearestTemplate(height: number, width: number): number {
  const ratio = height / width;
  if (!(ratio > 0 && Number.isFinite(ratio))) {
    invalidArgument('height and width', 'two positive numbers', [height, width]);
  }
  let nearest = 1;
  let distance = Number.POSITIVE_INFINITY;
  for (const template of TEMPLATE_RATIOS) {
    const d = Math.abs(ratio - template);
    if (d < distance) [nearest, distance] = [template, d];
  }
  return nearest;
}

/** The official schedule of a template and a pixel budget, time extent 1. */
export function templateSchedule(template: number, budget: PixelBudget): ScaleSchedule {
  const full = FULL_SCHEDULES.get(template);
  if (!full)
    invalidArgument(
      'template',
      `one of ${TEMPLATE_RATIOS.join(', ')}`,
      template,
      'Use nearestTemplate(height, width).',
    );
  const count = SCALES_PER_BUDGET[budget];
  if (count === undefined) invalidArgument('budget', `one of ${PIXEL_BUDGETS.join(', ')}`, budget);
  return full.slice(0, count);
}

/** The same grids with the growing time extents that the published table carries for video. */
export function withVideoTime(schedule: ScaleSchedule): ScaleSchedule {
  return schedule.map(
    ([, h, w], k): Scale => [
      VIDEO_TIME_EXTENTS[k] ?? invalidArgument('schedule', 'at most 13 scales', schedule.length),
      h,
      w,
    ],
  );
}

/** Rows and columns of the last scale. */
export function finestGrid(schedule: ScaleSchedule): readonly [h: number, w: number] {
  const last = schedule.at(-1);
  if (!last) invalidArgument('schedule', 'at least one scale', schedule);
  return [last[1], last[2]];
}

/** Height and width in pixels of a picture of this schedule. `tokenPixels`: side of a token of the finest grid. */
export function pixelSize(
  schedule: ScaleSchedule,
  tokenPixels = TOKEN_PIXELS,
): readonly [height: number, width: number] {
  const [h, w] = finestGrid(schedule);
  return [h * tokenPixels, w * tokenPixels];
}

/** Tokens of one scale. */
export function scaleTokens([t, h, w]: Scale): number {
  return t * h * w;
}

/** Tokens of the whole sequence (L). */
export function tokenCount(schedule: ScaleSchedule): number {
  return schedule.reduce((sum, scale) => sum + scaleTokens(scale), 0);
}

/** Position of the first token of every scale, and L at the end: `schedule.length + 1` numbers. */
export function scaleOffsets(schedule: ScaleSchedule): number[] {
  const offsets = [0];
  for (const scale of schedule) offsets.push((offsets.at(-1) ?? 0) + scaleTokens(scale));
  return offsets;
}

/** `length` rounded up to a multiple; 0 and 1 mean no padding. */
export function paddedLength(length: number, multiple: number): number {
  return multiple > 1 ? Math.ceil(length / multiple) * multiple : length;
}

/** What the tokenizer sees under spatial patchify: every grid doubled, at half the pixel stride. */
export function patchifySchedule(schedule: ScaleSchedule): ScaleSchedule {
  return schedule.map(([t, h, w]): Scale => [t, 2 * h, 2 * w]);
}

/**
 * Checks a schedule that came from outside (a checkpoint's `scale_schedules`) and returns it typed.
 * Every scale must be `[1, h, w]` with extents in 1..1024, none larger than the last, at most 64 of them.
 *
 * @throws InfinityError CHECKPOINT_INVALID naming the scale
 */
export function validateSchedule(value: unknown, name = 'scale schedule'): ScaleSchedule {
  const refuse = (what: string, found: unknown): never => {
    throw new InfinityError('CHECKPOINT_INVALID', `Expected ${what} in ${name} but received ${describe(found)}.`, {
      value: found,
      cure: 'Write it as a list of [1, rows, columns], coarse to fine.',
    });
  };
  if (!Array.isArray(value) || value.length === 0 || value.length > MAX_SCALES) {
    return refuse(`a list of 1 to ${MAX_SCALES} scales`, value);
  }
  const isExtent = (n: unknown) => Number.isInteger(n) && Number(n) >= 1 && Number(n) <= MAX_EXTENT;
  const schedule = value.map((scale: unknown, k): Scale => {
    if (!Array.isArray(scale) || scale.length !== 3 || scale[0] !== 1 || !isExtent(scale[1]) || !isExtent(scale[2])) {
      return refuse(`[1, rows, columns] with extents from 1 to ${MAX_EXTENT} at scale ${k}`, scale);
    }
    return [1, scale[1], scale[2]];
  });
  const [h, w] = finestGrid(schedule);
  for (const scale of schedule) {
    if (scale[1] > h || scale[2] > w) refuse(`no scale larger than the last, ${h} x ${w},`, scale);
  }
  return schedule;
}

/** True when both list the same grids. */
export function sameSchedule(a: ScaleSchedule, b: ScaleSchedule): boolean {
  return a.length === b.length && a.every((scale, k) => scale.every((n, axis) => n === b[k]?.[axis]));
}
