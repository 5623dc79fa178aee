import assert from 'node:assert/strict';
import type { Device } from '../../lib/device.js';
import { type KvRows, type QkvPrepOptions, qkvAppend, qkvPrep } from '../../lib/ops/attention.js';
import { Tape } from '../../lib/tape.js';
import { type DType, type Shape, scope, sizeOf, Tensor, type TensorBytes } from '../../lib/tensor.js';
import { toBf16 } from '../support/bf16.js';
import { assertClean, isaDevices, randomArray } from '../support/numeric.js';

interface Case {
  readonly batch: number;
  readonly length: number;
  readonly heads: number;
  readonly width: number;
  /** Rows before the first sample's, between samples, and behind the last one. */
  readonly before: number;
  readonly gap: number;
  readonly behind: number;
  /** Elements by which every operand starts off the beginning of its memory. */
  readonly shift: number;
}
const base = { before: 3, gap: 2, behind: 1, shift: 0 };
const cases: Record<string, Case> = {
  'one of everything': { batch: 1, length: 1, heads: 1, width: 2, before: 0, gap: 0, behind: 0, shift: 0 },
  '31 tokens of heads of 10': { ...base, batch: 2, length: 31, heads: 3, width: 10 },
  '33 tokens of heads of 48': { ...base, batch: 3, length: 33, heads: 2, width: 48 },
  'heads of 64 in one piece': { ...base, batch: 2, length: 5, heads: 12, width: 64, gap: 0 },
  'heads of 128': { ...base, batch: 2, length: 3, heads: 16, width: 128 },
  'heads of 128 at odd addresses': { ...base, batch: 2, length: 3, heads: 2, width: 128, shift: 3 },
  'heads of 256': { ...base, batch: 1, length: 4, heads: 2, width: 256 },
};

/** Numbers of a type on a device, `shift` elements into their memory. */
function shifted(device: Device, seed: number, shape: Shape, dtype: DType, shift: number): Tensor {
  const values = randomArray(seed, shift + sizeOf(shape));
  const whole = Tensor.from(dtype === 'bf16' ? toBf16(values) : values, [values.length], dtype, device);
  return whole.view(shape, shift);
}

/** What lies in a cache of `rows` rows when row at(b, t) takes token t of sample b of `fresh` [B, L, C]. */
function stored(before: TensorBytes, fresh: TensorBytes, c: Case): TensorBytes {
  const C = c.heads * c.width;
  const out = before.slice();
  for (let b = 0; b < c.batch; b++)
    for (let t = 0; t < c.length; t++)
      for (let d = 0; d < C; d++)
        out[(c.before + b * (c.length + c.gap) + t) * C + d] = fresh[(b * c.length + t) * C + d]!;
  return out;
}

for (const [isa, device] of isaDevices()) {
  const dtypes = device.kind === 'cuda' ? (['f32', 'bf16'] as const) : (['f32', 'f64'] as const);

  describe(`qkvAppend on ${isa}`, () => {
    for (const [name, c] of Object.entries(cases))
      it(`${name}: the bits of qkvPrep, k and v in their rows and no other`, async () => {
        const live = device.stats().liveTensors;
        const C = c.heads * c.width;
        const sampleStride = c.length + c.gap;
        const rows = c.before + c.batch * sampleStride - c.gap + c.behind;
        for (const dtype of dtypes)
          for (const plain of [false, true]) {
            const made = scope(() => {
              const operand = (seed: number, shape: Shape, type: DType = dtype) =>
                shifted(device, seed, shape, type, c.shift);
              const x = operand(1, [c.batch, c.length, 3 * C]);
              const gain = plain ? null : operand(2, [c.heads]);
              // Under bf16 tensors the table is f32, or bf16 as they are.
              const turning = dtype === 'bf16' && c.heads > 2 ? 'f32' : dtype;
              const rope = plain ? null : operand(3, [c.length + 2, c.width / 2, 2], turning);
              const options = { heads: c.heads, gain, rope, ropeStart: plain ? 0 : 2, cosine: !plain };
              const [k_1NC, v_1NC] = [operand(4, [1, rows, C]), operand(5, [1, rows, C])];
              return { x, options, k_1NC, v_1NC, parts: qkvPrep(x, options) };
            });
            const { x, options, k_1NC, v_1NC, parts } = made;
            const before = await Promise.all([k_1NC.read(), v_1NC.read()]);
            const q = qkvAppend(x, { k_1NC, v_1NC, start: c.before, sampleStride }, options);
            const [qWant, kWant, vWant] = await Promise.all(parts.map((t) => t.read()));
            assert.deepEqual(await q.read(), qWant);
            assert.deepEqual(await k_1NC.read(), stored(before[0], kWant!, c));
            assert.deepEqual(await v_1NC.read(), stored(before[1], vWant!, c));
            for (const t of [q, x, options.gain, options.rope, k_1NC, v_1NC, ...parts]) t?.dispose();
          }
        await assertClean(device, live);
      });

    it('refuses rows that are not there, and what does not fit', async () => {
      const live = device.stats().liveTensors;
      scope(() => {
        const make = (shape: Shape, dtype: DType = 'f32') => shifted(device, 1, shape, dtype, 0);
        const x = make([2, 3, 24]);
        const options: QkvPrepOptions = { heads: 2, gain: null, rope: null, ropeStart: 0, cosine: true };
        const rows: KvRows = { k_1NC: make([1, 9, 8]), v_1NC: make([1, 9, 8]), start: 1, sampleStride: 4 };
        const refused = (change: Partial<KvRows>, code: string, message: RegExp, from = x) =>
          assert.throws(() => qkvAppend(from, { ...rows, ...change }, options), { code, message });
        qkvAppend(x, { ...rows, start: 2 }, options);
        refused({ start: 3 }, 'INVALID_ARGUMENT', /a row from 0 to 2 .*3/);
        refused({ start: -1 }, 'INVALID_ARGUMENT', /a row from 0 to 2/);
        refused({ start: 0.5 }, 'INVALID_ARGUMENT', /a row from 0 to 2/);
        refused({ sampleStride: 2 }, 'INVALID_ARGUMENT', /at least the 3 rows/);
        refused({ sampleStride: 7 }, 'INVALID_ARGUMENT', /start/);
        refused({ k_1NC: make([1, 8, 8]) }, 'INVALID_SHAPE', /keys and values .*qkv_append/);
        refused({ v_1NC: make([1, 9, 6]) }, 'INVALID_SHAPE', /qkv_append/);
        refused({ k_1NC: make([9, 8]) }, 'INVALID_SHAPE', /qkv_append/);
        refused({ k_1NC: make([1, 9, 8], 'bf16') }, 'INVALID_SHAPE', /of f32/);
        refused({}, 'INVALID_SHAPE', /qkv_append.*empty/, x.view([0, 3, 24]));
        refused({}, 'INVALID_SHAPE', /qkv_append.*empty/, x.view([2, 0, 24]));
        assert.throws(() => qkvAppend(x, rows, { ...options, heads: 3 }), { code: 'INVALID_SHAPE' });
        const recorded = () => new Tape().watch(x).run(() => qkvAppend(x, rows, options));
        assert.throws(recorded, { code: 'NOT_DIFFERENTIABLE' });
      });
      await assertClean(device, live);
    });
  });
}
