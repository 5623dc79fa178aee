/**
 * Two-dimensional rotary position tables over all scales of a schedule.
 * Source: Infinity, infinity/models/basic.py (precompute_rope2d_freqs_grid). The arithmetic is float32, step by step,
 * because positions are rounded to integers and the angles reach 110 radians.
 */
import { invalidArgument } from '../errors.js';
import { paddedLength, type ScaleSchedule, scaleOffsets } from '../tokenizer/schedule.js';

/**
 * How a token's coordinate becomes a position: 0 raw coordinates, 1 tables interpolated from one window a ratio,
 * 2 coordinates stretched to the finest grid of the ratio (all released weights).
 */
export type RopeMode = 0 | 1 | 2;

/** What a rotary table depends on. */
export interface Rope2dOptions {
  /** Channels of one head, a multiple of 4. */
  readonly headDim: number;
  readonly schedule: ScaleSchedule;
  /** Rows and columns of the last scale of the largest schedule of this ratio. */
  readonly finest: readonly [h: number, w: number];
  readonly mode: RopeMode;
  /** Rows of zeros are appended up to a multiple of this; a zero rotation silences a padding token. Default 1. */
  readonly padToMultiple?: number;
}

/** Side of the base table: 2048 pixels of 16-pixel tokens. */
const BASE_EXTENT = 128;
const BASE_THETA = 10000;

const f32 = Math.fround;

/** To the nearest integer, ties to the even one, as Python and PyTorch round. */
export function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Position of coordinate `i` of a grid with `extent` cells, stretched to `finestExtent` cells, ties to even (mode 2). */
export function stretchedPosition(i: number, extent: number, finestExtent: number): number {
  return roundHalfEven(f32(i * f32(finestExtent / extent)));
}

/** Rotation frequencies of one axis, [headDim / 4]: theta_j = 10000^(-2j / (headDim / 2)). */
function frequencies(headDim: number): Float32Array {
  return Float32Array.from({ length: headDim / 4 }, (_, j) => 1 / f32(BASE_THETA ** f32((2 * j) / (headDim / 2))));
}

/** [positions, headDim / 4, 2]: cos and sin of position x frequency, from the given positions. */
function axisTable(positions: readonly number[], theta: Float32Array): Float32Array {
  const table = new Float32Array(positions.length * theta.length * 2);
  let at = 0;
  for (const position of positions) {
    for (const frequency of theta) {
      const angle = f32(position * frequency);
      table[at++] = Math.cos(angle);
      table[at++] = Math.sin(angle);
    }
  }
  return table;
}

/** Linear, corner-aligned resampling of the first `window` positions of an axis to `extent` of them (mode 1). */
function interpolatedAxis(extent: number, window: number, theta: Float32Array): Float32Array {
  const width = theta.length * 2;
  const base = axisTable([...Array(window).keys()], theta);
  const table = new Float32Array(extent * width);
  const step = extent > 1 ? f32((window - 1) / (extent - 1)) : 0;
  for (let i = 0; i < extent; i++) {
    const source = f32(i * step);
    const lower = Math.min(Math.floor(source), window - 1);
    const upper = Math.min(lower + 1, window - 1);
    const weight = f32(source - lower);
    for (let c = 0; c < width; c++) {
      table[i * width + c] = (1 - weight) * (base[lower * width + c] ?? 0) + weight * (base[upper * width + c] ?? 0);
    }
  }
  return table;
}

/** Rows and columns of the base table that mode 1 interpolates from. */
function interpolationWindow([h, w]: readonly [number, number]): readonly [number, number] {
  // The quotient first and truncated, as published: 111 x 37 gives 42, where rounding would give 43.
  return h >= w ? [BASE_EXTENT, Math.trunc((BASE_EXTENT / h) * w)] : [Math.trunc((BASE_EXTENT / w) * h), BASE_EXTENT];
}

function coordinates(extent: number, finestExtent: number, mode: 0 | 2): number[] {
  return Array.from({ length: extent }, (_, i) => (mode === 0 ? i : stretchedPosition(i, extent, finestExtent)));
}

/**
 * Integer (row, column) position of every token: [L, 2], schedule order, row-major inside a scale.
 * Mode 1 has no integer positions.
 */
export function rope2dPositions(
  options: Pick<Rope2dOptions, 'schedule' | 'finest'> & { readonly mode: 0 | 2 },
): Int32Array {
  const { schedule, finest, mode } = options;
  const positions = new Int32Array((scaleOffsets(schedule).at(-1) ?? 0) * 2);
  let at = 0;
  for (const [, h, w] of schedule) {
    const columns = coordinates(w, finest[1], mode);
    for (const row of coordinates(h, finest[0], mode)) {
      for (const column of columns) {
        positions[at++] = row;
        positions[at++] = column;
      }
    }
  }
  return positions;
}

/**
 * Rotation table of a schedule: [rows, headDim / 2, 2 (cos, sin)], rows = tokens padded to `padToMultiple`.
 * The first headDim / 4 pairs of a row turn with the token's row, the others with its column; pair i rotates the
 * adjacent channels 2i and 2i + 1. Scale k starts at the number of tokens of all scales before it.
 *
 * @throws InfinityError INVALID_ARGUMENT when headDim is no multiple of 4 or a grid exceeds the 128 x 128 base table
 */
export function rope2dTable(options: Rope2dOptions): Float32Array {
  const { headDim, schedule, finest, mode, padToMultiple = 1 } = options;
  if (!Number.isInteger(headDim) || headDim < 4 || headDim % 4 !== 0)
    invalidArgument('headDim', 'a positive multiple of 4', headDim);
  if (mode !== 0 && mode !== 1 && mode !== 2) invalidArgument('rope mode', '0, 1 or 2', mode);
  for (const extent of [...finest, ...schedule.flat()]) {
    if (!Number.isInteger(extent) || extent < 1 || extent > BASE_EXTENT)
      invalidArgument('rope grid', `extents from 1 to ${BASE_EXTENT}`, extent);
  }
  const offsets = scaleOffsets(schedule);
  const theta = frequencies(headDim);
  const axis = headDim / 2;
  const table = new Float32Array(paddedLength(offsets.at(-1) ?? 0, padToMultiple) * headDim);
  const window = interpolationWindow(finest);
  schedule.forEach(([t, h, w], k) => {
    if (t !== 1) invalidArgument('schedule', 'time extent 1 (still pictures)', t);
    const [rows, columns] =
      mode === 1
        ? [interpolatedAxis(h, window[0], theta), interpolatedAxis(w, window[1], theta)]
        : [axisTable(coordinates(h, finest[0], mode), theta), axisTable(coordinates(w, finest[1], mode), theta)];
    let at = (offsets[k] ?? 0) * headDim;
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++, at += headDim) {
        table.set(rows.subarray(y * axis, (y + 1) * axis), at);
        table.set(columns.subarray(x * axis, (x + 1) * axis), at + axis);
      }
    }
  });
  return table;
}
