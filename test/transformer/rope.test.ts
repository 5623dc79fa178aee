import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { parseSafetensors } from '../../lib/io/safetensors.js';
import { type TensorData, toFloat64 } from '../../lib/io/tensor_data.js';
import { finestGrid, type PixelBudget, type ScaleSchedule, templateSchedule } from '../../lib/tokenizer/schedule.js';
import { type RopeMode, rope2dPositions, rope2dTable, stretchedPosition } from '../../lib/transformer/rope.js';
import { readGoldenJson, requireGolden } from '../support/goldens.js';

interface Golden {
  tables: {
    tensor: string;
    h_div_w: number;
    mode: RopeMode;
    head_dim: number;
    schedule: ScaleSchedule;
    rows_stored: number;
  }[];
  indices: { tensor: string; h_div_w: number; lengths: Record<PixelBudget, number> }[];
  padding: { h_div_w: number; pad_to_multiplier: number; real_rows: number; padded_rows: number };
  half_way_cases: { extent: number; last_extent: number; i: number; index: number }[];
  checks: { match: string; atol?: number }[];
}

const finest = (ratio: number) => finestGrid(templateSchedule(ratio, '1M'));

/** Largest distance of rows `from`.. of a [rows, D/2, 2] table from a golden [2, n, D/2] one. */
function distance(table: Float32Array, golden: TensorData, from = 0): number {
  const [two, rows, pairs] = golden.shape;
  const expected = toFloat64(golden);
  let worst = 0;
  for (let part = 0; part < two; part++) {
    for (let i = 0; i < rows * pairs; i++) {
      const got = table[(from * pairs + i) * 2 + part];
      worst = Math.max(worst, Math.abs(got - expected[part * rows * pairs + i]));
    }
  }
  return worst;
}

describe('rope2d tables', () => {
  let golden: Golden;
  let tensors: Map<string, TensorData>;
  before(function () {
    golden = readGoldenJson<Golden>(this, 'transformer/a_rope2d.json');
    tensors = parseSafetensors(readFileSync(requireGolden(this, 'transformer/a_rope2d.safetensors')));
  });
  const tensor = (name: string) => tensors.get(name) ?? assert.fail(`no tensor ${name}`);

  it('agree with the reference in all three modes', () => {
    assert.ok(golden.tables.length >= 7);
    for (const { tensor: name, h_div_w, mode, head_dim, schedule, rows_stored } of golden.tables) {
      const atol = golden.checks.find(({ match }) => match === name)?.atol ?? assert.fail(name);
      const stored = tensor(name);
      assert.deepEqual(stored.shape, [2, rows_stored, head_dim / 2]);
      const table = rope2dTable({ headDim: head_dim, schedule, finest: finest(h_div_w), mode });
      assert.ok(distance(table, stored) <= atol, `${name}: ${distance(table, stored)} > ${atol}`);
    }
  });

  it('positions of the full schedules are exact', () => {
    for (const { tensor: name, h_div_w, lengths } of golden.indices) {
      const full = templateSchedule(h_div_w, '1M');
      const expected = toFloat64(tensor(name));
      assert.deepEqual(
        Float64Array.from(rope2dPositions({ schedule: full, finest: finest(h_div_w), mode: 2 })),
        expected,
      );
      for (const [budget, length] of Object.entries(lengths)) {
        const schedule = templateSchedule(h_div_w, budget as PixelBudget);
        const prefix = rope2dPositions({ schedule, finest: finest(h_div_w), mode: 2 });
        assert.deepEqual(Float64Array.from(prefix), expected.slice(0, 2 * length));
      }
    }
  });

  it('halves go to the even position', () => {
    for (const { i, extent, last_extent, index } of golden.half_way_cases) {
      assert.equal(stretchedPosition(i, extent, last_extent), index, `${i} of ${extent} under ${last_extent}`);
    }
  });

  it('padding rows are zero', () => {
    const { h_div_w, pad_to_multiplier, real_rows, padded_rows } = golden.padding;
    const schedule = templateSchedule(h_div_w, '1M');
    const table = rope2dTable({
      headDim: 16,
      schedule,
      finest: finest(h_div_w),
      mode: 2,
      padToMultiple: pad_to_multiplier,
    });
    assert.equal(table.length, padded_rows * 16);
    assert.ok(distance(table, tensor('padded_tail'), real_rows - 2) <= 1e-5);
    assert.ok(table.subarray(real_rows * 16).every((v) => v === 0));
  });

  it('agree with the published numbers of head width 128', () => {
    const table = rope2dTable({ headDim: 128, schedule: templateSchedule(1, '0.06M'), finest: [64, 64], mode: 2 });
    const published: [pair: number, cos: number, sin: number][] = [
      [0, -0.5477293, 0.8366556],
      [1, -0.9992075, -0.0398042],
      [31, 0.9999961, 0.0028004],
      [32, -0.9182828, 0.3959252],
      [33, -0.4568797, 0.8895285],
      [63, 0.999975, 0.0070676],
    ];
    for (const [pair, cos, sin] of published) {
      const at = (38 * 64 + pair) * 2;
      assert.ok(Math.abs(table[at] - cos) < 1e-6 && Math.abs(table[at + 1] - sin) < 1e-6, `pair ${pair}`);
    }
  });

  it('bad input is refused by name', () => {
    const good = { headDim: 16, schedule: templateSchedule(1, '0.06M'), finest: [64, 64] as const, mode: 2 as const };
    assert.throws(() => rope2dTable({ ...good, headDim: 6 }), { code: 'INVALID_ARGUMENT', message: /headDim/ });
    assert.throws(() => rope2dTable({ ...good, mode: 3 as RopeMode }), { code: 'INVALID_ARGUMENT', message: /mode/ });
    assert.throws(() => rope2dTable({ ...good, finest: [200, 64] }), { code: 'INVALID_ARGUMENT', message: /128/ });
    assert.throws(() => rope2dTable({ ...good, schedule: [[2, 1, 1]] }), {
      code: 'INVALID_ARGUMENT',
      message: /still/,
    });
  });
});
