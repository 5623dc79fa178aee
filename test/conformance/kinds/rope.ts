/** Two-dimensional rotary tables, positions, padding, and the rotation of queries and keys. */
import { qkvPrep } from '../../../lib/ops/attention.js';
import { Tensor } from '../../../lib/tensor.js';
import {
  finestGrid,
  type PixelBudget,
  paddedLength,
  type ScaleSchedule,
  templateSchedule,
  tokenCount,
} from '../../../lib/tokenizer/schedule.js';
import { type RopeMode, rope2dPositions, rope2dTable, stretchedPosition } from '../../../lib/transformer/rope.js';
import { download, type HostArray, permuted, reshaped, sliced } from '../array.js';
import type { GoldenCase } from '../case.js';

interface Geometry {
  readonly h_div_w: number;
  readonly pn: PixelBudget;
  readonly mode: RopeMode;
  readonly head_dim: number;
}

interface RopeFields {
  readonly tables: readonly (Geometry & { readonly tensor: string; readonly schedule: ScaleSchedule })[];
  readonly indices: readonly {
    readonly tensor: string;
    readonly h_div_w: number;
    readonly schedule_1M: ScaleSchedule;
  }[];
  readonly padding?: { readonly h_div_w: number; readonly pad_to_multiplier: number };
  readonly apply: readonly (Geometry & { readonly prefix: string; readonly start_row: number })[];
  readonly half_way_cases?: readonly { readonly extent: number; readonly last_extent: number; readonly i: number }[];
}

/** All resolutions of a ratio are stretched to the last grid of its largest schedule. */
const finestOf = (ratio: number) => finestGrid(templateSchedule(ratio, '1M'));

/** [rows, headDim / 2, 2] in the device's order. */
function deviceTable(
  { h_div_w, mode, head_dim }: Omit<Geometry, 'pn'>,
  schedule: ScaleSchedule,
  padToMultiple = 1,
): HostArray {
  const data = rope2dTable({ headDim: head_dim, schedule, finest: finestOf(h_div_w), mode, padToMultiple });
  return { shape: [(2 * data.length) / (2 * head_dim), head_dim / 2, 2], data };
}

/** [2, rows, headDim / 2] as the file has it: cosines, then sines. */
const goldenTable = (table: HostArray): HostArray => permuted(table, [2, 0, 1]);

/** Rotates heads [B, H, L, D]: the op that prepares queries and keys, without its normalisation. */
async function rotated(
  q: HostArray,
  k: HostArray,
  table: HostArray,
  startRow: number,
): Promise<[HostArray, HostArray]> {
  const [B, H, L, D] = q.shape as [number, number, number, number];
  const [qRows, kRows] = [q, k].map((x) => permuted(x, [0, 2, 1, 3]).data as Float32Array) as [
    Float32Array,
    Float32Array,
  ];
  const packed = new Float32Array(B * L * 3 * H * D);
  for (let row = 0; row < B * L; row++) {
    packed.set(qRows.subarray(row * H * D, (row + 1) * H * D), row * 3 * H * D);
    packed.set(kRows.subarray(row * H * D, (row + 1) * H * D), (row * 3 + 1) * H * D);
  }
  using qkv = Tensor.from(packed, [B, L, 3 * H * D]);
  using rope = Tensor.from(table.data as Float32Array, table.shape);
  const parts = qkvPrep(qkv, { heads: H, gain: null, rope, ropeStart: startRow, cosine: false });
  const heads = (rows: HostArray) => permuted(reshaped(rows, [B, L, H, D]), [0, 2, 1, 3]);
  const [qOut, kOut] = [heads(await download(parts[0])), heads(await download(parts[1]))];
  for (const part of parts) part.dispose();
  return [qOut, kOut];
}

export async function rope2d(c: GoldenCase): Promise<void> {
  const { tables, indices, padding, apply, half_way_cases = [] } = c.fields<RopeFields>();
  for (const { tensor, schedule, ...geometry } of tables) {
    const table = goldenTable(deviceTable(geometry, schedule));
    // Long tables are stored in part.
    c.give(tensor, sliced(table, 1, 0, Math.min(table.shape[1]!, c.array(tensor).shape[1]!)));
  }
  for (const { tensor, h_div_w, schedule_1M } of indices) {
    const positions = rope2dPositions({ schedule: schedule_1M, finest: finestOf(h_div_w), mode: 2 });
    c.give(tensor, { shape: [positions.length / 2, 2], data: positions });
  }
  if (padding) {
    const schedule = templateSchedule(padding.h_div_w, '1M');
    const rows = tokenCount(schedule);
    const padded = paddedLength(rows, padding.pad_to_multiplier);
    c.giveJson(['padding', 'real_rows'], rows);
    c.giveJson(['padding', 'padded_rows'], padded);
    if (c.has('padded_tail')) {
      const [, kept, half] = c.array('padded_tail').shape as [number, number, number];
      const geometry = { h_div_w: padding.h_div_w, mode: 2, head_dim: 2 * half } as const;
      const table = goldenTable(deviceTable(geometry, schedule, padding.pad_to_multiplier));
      c.give('padded_tail', sliced(table, 1, padded - kept, padded));
    }
  }
  for (const { prefix, pn, start_row, ...geometry } of apply) {
    const table = deviceTable(geometry, templateSchedule(geometry.h_div_w, pn));
    const [q, k] = await rotated(c.array(`${prefix}.q`), c.array(`${prefix}.k`), table, start_row);
    c.give(`${prefix}.q_out`, q);
    c.give(`${prefix}.k_out`, k);
  }
  half_way_cases.forEach(({ i, extent, last_extent }, n) => {
    c.giveJson(['half_way_cases', n, 'index'], stretchedPosition(i, extent, last_extent));
  });
}
