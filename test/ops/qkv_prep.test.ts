import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { Device } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import { parseSafetensors } from '../../lib/io/safetensors.js';
import { toFloat64 } from '../../lib/io/tensor_data.js';
import { type QkvPrepOptions, qkvPrep } from '../../lib/ops/attention.js';
import { Tape } from '../../lib/tape.js';
import { type Shape, scope, sizeOf, Tensor } from '../../lib/tensor.js';
import { finestGrid, type PixelBudget, templateSchedule } from '../../lib/tokenizer/schedule.js';
import { type RopeMode, rope2dTable } from '../../lib/transformer/rope.js';
import { randomBf16, toBf16 } from '../support/bf16.js';
import { readGoldenJson, requireGolden } from '../support/goldens.js';
import {
  assertClean,
  assertGradients,
  assertMatchesReference,
  isaDevices,
  random,
  randomArray,
  referenceOf,
  relativeError,
} from '../support/numeric.js';

interface Applied {
  readonly prefix: string;
  readonly h_div_w: number;
  readonly pn: PixelBudget;
  readonly mode: RopeMode;
  readonly head_dim: number;
  readonly start_row: number;
}

/** The definition in plain loops. */
function prepByLoops(
  qkv: ArrayLike<number>,
  shape: readonly [batch: number, length: number, heads: number, width: number],
  options: { gain?: ArrayLike<number>; rope?: ArrayLike<number>; ropeStart: number; cosine: boolean },
): Float64Array[] {
  const [batch, length, heads, width] = shape;
  const channels = heads * width;
  const parts = [0, 1, 2].map(() => new Float64Array(batch * length * channels));
  for (let row = 0; row < batch * length; row++)
    for (let part = 0; part < 3; part++)
      for (let h = 0; h < heads; h++) {
        const from = row * 3 * channels + part * channels + h * width;
        const x = Array.from({ length: width }, (_, d) => qkv[from + d]!);
        const norm = options.cosine ? Math.max(Math.hypot(...x), 1e-12) : 1;
        const gain = part === 0 && options.gain ? Math.exp(Math.min(options.gain[h]!, Math.log(100))) : 1;
        const out = parts[part]!;
        for (let d = 0; d < width; d += 2) {
          const at = ((options.ropeStart + (row % length)) * width) / 2 + d / 2;
          const [cos, sin] = part < 2 && options.rope ? [options.rope[2 * at]!, options.rope[2 * at + 1]!] : [1, 0];
          const factor = part < 2 ? gain / norm : 1;
          const [even, odd] = [x[d]! * factor, x[d + 1]! * factor];
          out[row * channels + h * width + d] = even * cos - odd * sin;
          out[row * channels + h * width + d + 1] = even * sin + odd * cos;
        }
      }
  return parts;
}

for (const [isa, device] of isaDevices()) {
  describe(`qkvPrep on ${isa}`, () => {
    const variants = [
      { cosine: true, gained: true, turned: true },
      { cosine: true, gained: false, turned: false },
      { cosine: false, gained: true, turned: true },
      { cosine: false, gained: false, turned: false },
    ];
    const optionsFor = (x: Tensor, gain: Tensor, rope: Tensor, v: (typeof variants)[number]): QkvPrepOptions => ({
      heads: gain.size,
      gain: v.gained ? gain : null,
      rope: v.turned ? rope : null,
      ropeStart: v.turned ? rope.shape[0]! - x.shape[1]! : 0,
      cosine: v.cosine,
    });

    it('follows its definition, in f64 and in f32, at awkward sizes', async () => {
      for (const [batch, length, heads, width] of [
        [1, 1, 1, 2],
        [2, 31, 3, 10],
        [2, 33, 2, 48],
      ] as const)
        for (const v of variants) {
          const shapes = [[batch, length, 3 * heads * width], [heads], [length + 2, width / 2, 2]];
          const prep = (x: Tensor, gain: Tensor, rope: Tensor): Tensor[] => qkvPrep(x, optionsFor(x, gain, rope, v));
          await assertMatchesReference(device, prep, shapes);
          const values = shapes.map((shape, i) =>
            randomArray(
              1 + i,
              shape.reduce((a, b) => a * b),
            ),
          );
          const want = prepByLoops(values[0]!, [batch, length, heads, width], {
            gain: v.gained ? values[1] : undefined,
            rope: v.turned ? values[2] : undefined,
            ropeStart: v.turned ? 2 : 0,
            cosine: v.cosine,
          });
          const parts = scope(() =>
            prep(...(shapes.map((s, i) => random(referenceOf(device), 1 + i, s, 'f64')) as [Tensor, Tensor, Tensor])),
          );
          for (const [i, part] of parts.entries()) {
            assert.ok(relativeError(await part.readFloats(), want[i]!) < 1e-12);
            part.dispose();
          }
        }
    });

    it('the gain stops at 100, and so does its gradient', async () => {
      const live = device.stats().liveTensors;
      const dtype = device.kind === 'cpu' ? 'f64' : 'f32';
      const allowed = dtype === 'f64' ? 1e-9 : 1e-4;
      const [x, gain] = [
        random(device, 1, [1, 3, 24], dtype),
        Tensor.from(new Float64Array([5, 4]), [2], dtype, device),
      ];
      const tape = new Tape().watch(gain);
      const [q, k, v] = tape.run(() => qkvPrep(x, { heads: 2, gain, rope: null, ropeStart: 0, cosine: true }));
      const rows = await q.readFloats();
      assert.ok(Math.abs(Math.hypot(...rows.slice(0, 4)) - 100) < allowed);
      assert.ok(Math.abs(Math.hypot(...rows.slice(4, 8)) - Math.exp(4)) < allowed);
      const grads = tape.backward([{ of: q, cotangent: q }]);
      const [first, second] = await grads.get(gain)!.readFloats();
      assert.equal(first, 0);
      // q · dq/dgain is the squared length of q, once a row.
      assert.ok(Math.abs(second! / (3 * Math.exp(8)) - 1) < (dtype === 'f64' ? 1e-12 : 1e-6));
      grads.dispose();
      for (const t of [x, gain, q, k, v]) t.dispose();
      await assertClean(device, live);
    });

    it('gradients equal finite differences', async () => {
      const ropes = new Map([device, referenceOf(device)].map((on) => [on, random(on, 5, [4, 3, 2])]));
      for (const v of variants) {
        const prep = (x: Tensor, gain: Tensor): Tensor[] => qkvPrep(x, optionsFor(x, gain, ropes.get(x.device)!, v));
        await assertGradients(device, prep, [[2, 3, 36], [2]]);
        // A loss that reads one of the three leaves the others without a cotangent.
        for (const part of [0, 1, 2])
          await assertGradients(device, (x, gain) => prep(x, gain)[part]!, [[1, 2, 36], [2]]);
      }
      for (const rope of ropes.values()) rope.dispose();
    });

    it('f32 gradients equal f64 over several tiles, and keep their bits, with one thread too', async () => {
      const gradients = (x: Tensor, gain: Tensor, rope: Tensor): Tensor[] => {
        const tape = new Tape().watch(x, gain);
        const outputs = tape.run(() => qkvPrep(x, optionsFor(x, gain, rope, variants[0]!)));
        const cotangents = outputs.map((of, i) => ({
          of,
          cotangent: random(x.device, 9 + i, of.shape, of.dtype as 'f32' | 'f64'),
        }));
        const grads = tape.backward(cotangents);
        return [grads.get(x)!, grads.get(gain)!];
      };
      const shapes = [[3, 35, 3 * 2 * 20], [2], [35, 10, 2]];
      await assertMatchesReference(device, gradients, shapes, { tolerance: 4e-6 });
      const bits = async (on: Device): Promise<unknown[]> => {
        const grads = scope(() =>
          gradients(...(shapes.map((s, i) => random(on, 1 + i, s)) as [Tensor, Tensor, Tensor])),
        );
        const values = await Promise.all(grads.map((t) => t.read()));
        for (const t of grads) t.dispose();
        return values;
      };
      const again = device.kind === 'cpu' ? Device.create('cpu', { isa, threads: 1 }) : device;
      assert.deepEqual(await bits(again), await bits(device));
      if (again !== device) again.close();
    });

    it('bf16 rounds the exact results once, under gain and rotation in bf16 or f32', async function () {
      if (device.kind !== 'cuda') this.skip(); // processors prepare in f32 and f64
      const live = device.stats().liveTensors;
      for (const [batch, length, heads, width] of [
        [2, 3, 3, 10],
        [1, 5, 2, 104],
        [1, 3, 2, 256],
      ] as const)
        for (const [n, v] of variants.entries()) {
          const shapes: Shape[] = [[batch, length, 3 * heads * width], [heads], [length + 2, width / 2, 2]];
          const part: Shape = [batch, length, heads * width];
          const numbers = [...shapes, part, part, part].map((shape, i) => randomBf16(1 + i, sizeOf(shape)));
          const results = async (
            on: Device,
            dtypes: readonly ('f64' | 'f32' | 'bf16')[],
          ): Promise<ArrayLike<number>[]> => {
            const tensorOf = (i: number, shape: Shape): Tensor => {
              const dtype = dtypes[i < 3 ? i : 0]!;
              return Tensor.from(dtype === 'bf16' ? toBf16(numbers[i]!) : numbers[i]!, shape, dtype, on);
            };
            const outputs = scope(() => {
              const [x, gain, rope] = shapes.map((shape, i) => tensorOf(i, shape)) as [Tensor, Tensor, Tensor];
              const tape = new Tape().watch(x, gain);
              const parts = tape.run(() => qkvPrep(x, optionsFor(x, gain, rope, v)));
              const grads = tape.backward(parts.map((of, i) => ({ of, cotangent: tensorOf(3 + i, part) })));
              return [...parts, grads.get(x)!, ...(v.gained ? [grads.get(gain)!] : [])];
            });
            const read = await Promise.all(outputs.map((t) => t.readFloats()));
            for (const t of outputs) t.dispose();
            return read;
          };
          const want = await results(referenceOf(device), ['f64', 'f64', 'f64']);
          const got = await results(device, n % 2 ? ['bf16', 'f32', 'f32'] : ['bf16', 'bf16', 'bf16']);
          for (const [i, exact] of want.entries()) {
            const largest = Array.from(exact).reduce((most, x) => Math.max(most, Math.abs(x)), 0);
            for (const [at, x] of Array.from(exact).entries())
              assert.ok(
                Math.abs(got[i]![at]! - x) <= 2 ** -8 * Math.abs(x) + 4e-6 * largest,
                `result ${i}, element ${at}: ${got[i]![at]} for ${x}`,
              );
          }
        }
      await assertClean(device, live);
    });

    it('rotates as the reference does', async function () {
      const golden = readGoldenJson<{ apply: Applied[] }>(this, 'transformer/a_rope2d.json');
      const tensors = parseSafetensors(readFileSync(requireGolden(this, 'transformer/a_rope2d.safetensors')));
      const stored = (name: string) => tensors.get(name) ?? assert.fail(name);
      for (const { prefix, h_div_w, pn, mode, head_dim, start_row } of golden.apply) {
        const [batch, heads, length, width] = stored(`${prefix}.q`).shape as [number, number, number, number];
        const channels = heads * width;
        const heads1st = (b: number, h: number, l: number, d: number): number =>
          ((b * heads + h) * length + l) * width + d;
        const qkv = new Float32Array(batch * length * 3 * channels);
        const each = (fn: (row: number, column: number, at: number) => void): void => {
          for (let b = 0; b < batch; b++)
            for (let h = 0; h < heads; h++)
              for (let l = 0; l < length; l++)
                for (let d = 0; d < width; d++) fn(b * length + l, h * width + d, heads1st(b, h, l, d));
        };
        const [qIn, kIn] = ['q', 'k'].map((name) => toFloat64(stored(`${prefix}.${name}`)));
        each((row, column, at) => {
          qkv[row * 3 * channels + column] = qIn![at]!;
          qkv[row * 3 * channels + channels + column] = kIn![at]!;
        });
        const table = rope2dTable({
          headDim: head_dim,
          schedule: templateSchedule(h_div_w, pn),
          finest: finestGrid(templateSchedule(h_div_w, '1M')),
          mode,
        });
        const parts = scope(() => {
          const rope = Tensor.from(table, [(table.length / width) | 0, width / 2, 2], 'f32', device);
          const x = Tensor.from(qkv, [batch, length, 3 * channels], 'f32', device);
          return qkvPrep(x, { heads, gain: null, rope, ropeStart: start_row, cosine: false });
        });
        for (const [i, name] of ['q_out', 'k_out'].entries()) {
          const want = toFloat64(stored(`${prefix}.${name}`));
          const got = await parts[i]!.readFloats();
          let worst = 0;
          each((row, column, at) => {
            worst = Math.max(worst, Math.abs(got[row * channels + column]! - want[at]!));
          });
          assert.ok(worst < 2e-5, `${prefix}.${name}: ${worst}`);
        }
        for (const part of parts) part.dispose();
      }
    });

    it('refuses shapes that do not fit', async () => {
      const live = device.stats().liveTensors;
      const refused = (fn: () => unknown): void =>
        assert.throws(fn, (e: unknown) => e instanceof InfinityError && e.code === 'INVALID_SHAPE');
      scope(() => {
        const x = random(device, 1, [2, 3, 24]);
        const plain = { heads: 2, gain: null, rope: null, ropeStart: 0, cosine: true };
        refused(() => qkvPrep(x, { ...plain, heads: 5 }));
        refused(() => qkvPrep(x, { ...plain, gain: random(device, 2, [3]) }));
        refused(() => qkvPrep(x, { ...plain, rope: random(device, 2, [3, 3, 2]) }));
        refused(() => qkvPrep(x, { ...plain, rope: random(device, 2, [3, 2, 2]), ropeStart: 1 }));
      });
      await assertClean(device, live);
    });
  });
}
