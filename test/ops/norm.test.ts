import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import { adaNorm, gatedAdd, groupNorm, layerNorm, rmsNorm } from '../../lib/ops/norm.js';
import { Tape } from '../../lib/tape.js';
import { type DType, type Shape, scope, sizeOf, Tensor } from '../../lib/tensor.js';
import { randomBf16, toBf16 } from '../support/bf16.js';
import { EPS, evaluate, input, type Numbers, normalise } from '../support/norms.js';
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

/** Output and gradients of sum(fn · R) as bytes of f32, to be compared exactly. */
async function bits(
  device: Device,
  fn: (...inputs: Tensor[]) => Tensor,
  values: Float64Array[],
  shapes: Shape[],
  weights: Float64Array,
): Promise<Numbers[]> {
  const inputs = shapes.map((shape, i) => Tensor.from(values[i]!, shape, 'f32', device));
  const tape = new Tape().watch(...inputs);
  const y = tape.run(() => fn(...inputs));
  const cotangent = Tensor.from(weights, y.shape, 'f32', device);
  const grads = tape.backward([{ of: y, cotangent }]);
  const out = await Promise.all([y, ...inputs.map((t) => grads.get(t)!)].map((t) => t.readFloats()));
  for (const t of [y, cotangent, ...inputs]) t.dispose();
  grads.dispose();
  return out;
}

/** Twice what rounding to `dtype` costs, and the f32 budget of gradients. */
function assertRounded(got: Numbers, want: Numbers, dtype: DType, what: string): void {
  const largest = Array.from(want).reduce((most, v) => Math.max(most, Math.abs(v)), 0);
  for (const [i, v] of want.entries()) {
    const allowed = (dtype === 'bf16' ? 2 ** -8 * Math.abs(v) : 0) + 1e-5 * largest;
    assert.ok(Math.abs(got[i]! - v) <= allowed, `${what}, element ${i}: ${got[i]} for ${v}`);
  }
}

/** Output and gradients of sum(fn · R). */
const withGradients =
  (fn: (...inputs: Tensor[]) => Tensor) =>
  (...inputs: Tensor[]): Tensor[] => {
    const tape = new Tape().watch(...inputs);
    const y = tape.run(() => fn(...inputs));
    const cotangent = random(y.device, 9, y.shape, y.dtype as 'f32' | 'f64');
    const grads = tape.backward([{ of: y, cotangent }]);
    return [y, ...inputs.map((t) => grads.get(t)!)];
  };

for (const [isa, device] of isaDevices()) {
  const [exact, tolerance] = device.kind === 'cuda' ? (['f32', 4e-6] as const) : (['f64', 1e-12] as const);
  describe(`norm on ${isa}`, () => {
    const layer = (x: Tensor, w: Tensor, b: Tensor): Tensor => layerNorm(x, w, b, EPS);
    const ada = (x: Tensor, s: Tensor, t: Tensor): Tensor => adaNorm(x, s, t, EPS);
    const rms = (x: Tensor, w: Tensor): Tensor => rmsNorm(x, w, EPS);
    const group = (groups: number, silu: boolean) => (x: Tensor, w: Tensor, b: Tensor) =>
      groupNorm(x, w, b, groups, EPS, { silu });

    it('layerNorm, adaNorm and rmsNorm follow their definitions', async () => {
      for (const c of [1, 31, 33]) {
        const x = input(0, 6 * c);
        const [p, q] = [input(1, 2 * c), input(2, 2 * c)];
        const centred = normalise(x, (i) => Math.floor(i / c), true);
        const plain = normalise(x, (i) => Math.floor(i / c), false);
        const cases: [Numbers, (i: number) => number][] = [
          [await evaluate(device, exact, layer, [[2, 3, c], [c], [c]]), (i) => centred[i]! * p[i % c]! + q[i % c]!],
          [
            await evaluate(device, exact, ada, [
              [2, 3, c],
              [2, 1, c],
              [2, 1, c],
            ]),
            (i) => {
              const at = Math.floor(i / (3 * c)) * c + (i % c);
              return centred[i]! * (1 + p[at]!) + q[at]!;
            },
          ],
          [await evaluate(device, exact, (y) => layerNorm(y, null, null, EPS), [[2, 3, c]]), (i) => centred[i]!],
          [await evaluate(device, exact, rms, [[2, 3, c], [c]]), (i) => plain[i]! * p[i % c]!],
        ];
        for (const [got, want] of cases)
          assert.ok(
            relativeError(
              got,
              Float64Array.from(got, (_, i) => want(i)),
            ) < tolerance,
          );
      }
    });

    it('rows in f32 equal f64 at awkward sizes', async () => {
      for (const c of [1, 31, 33, 257]) {
        await assertMatchesReference(device, layer, [[3, 5, c], [c], [c]], { tolerance: 4e-6 });
        await assertMatchesReference(device, rms, [[3, 5, c], [c]], { tolerance: 4e-6 });
        for (const b of [1, 3])
          await assertMatchesReference(
            device,
            ada,
            [
              [3, 5, c],
              [b, 1, c],
              [b, 1, c],
            ],
            { tolerance: 4e-6 },
          );
        for (const b of [1, 3])
          await assertMatchesReference(device, gatedAdd, [
            [3, 35, c],
            [3, 35, c],
            [b, 1, c],
          ]);
      }
    });

    it('gradients of rows equal finite differences', async () => {
      await assertGradients(device, layer, [[2, 3, 1], [1], [1]]);
      for (const c of [7, 18]) {
        await assertGradients(device, layer, [[2, 3, c], [c], [c]]);
        await assertGradients(device, (x) => layerNorm(x, null, null, EPS), [[2, c]]);
        await assertGradients(device, rms, [[2, 3, c], [c]]);
      }
      for (const b of [1, 2]) {
        await assertGradients(device, ada, [
          [2, 3, 6],
          [b, 1, 6],
          [b, 1, 6],
        ]);
        await assertGradients(device, gatedAdd, [
          [2, 35, 3],
          [2, 35, 3],
          [b, 1, 3],
        ]);
      }
    });

    it('f32 gradients equal f64 over several runs', async () => {
      const cases: [(...inputs: Tensor[]) => Tensor, Shape[]][] = [
        [layer, [[3, 35, 33], [33], [33]]],
        [
          ada,
          [
            [2, 35, 48],
            [2, 1, 48],
            [2, 1, 48],
          ],
        ],
        [group(8, true), [[5, 17, 64, 64], [64], [64]]],
        [group(2, true), [[1, 33, 31, 34], [34], [34]]],
      ];
      for (const [fn, shapes] of cases)
        await assertMatchesReference(device, withGradients(fn), shapes, { tolerance: 1e-5 });
    });

    it('rows of every width that a card treats in its own way equal f64, forward and backward', async () => {
      for (const c of [260, 1000, 1028, 3000, 8192, 8200]) {
        await assertMatchesReference(device, withGradients(layer), [[9, c], [c], [c]], { tolerance: 1e-5 });
        await assertMatchesReference(device, withGradients(rms), [[2, c], [c]], { tolerance: 1e-5 });
      }
    });

    it('views that start anywhere have the bits of aligned tensors', async () => {
      const cases: [(x: Tensor) => Tensor[], Shape][] = [
        [withGradients((x) => layerNorm(x, null, null, EPS)), [40, 64]],
        [withGradients((x) => gatedAdd(x, x, random(device, 2, [1, 1, 64]))), [2, 40, 64]],
        [withGradients((x) => groupNorm(x, random(device, 2, [64]), random(device, 3, [64]), 4, EPS)), [1, 6, 7, 64]],
      ];
      for (const [fn, shape] of cases) {
        const n = shape.reduce((a, b) => a * b);
        const long = random(device, 1, [n + 3]);
        const copy = Tensor.from((await long.readFloats()).subarray(3), shape, 'f32', device);
        const results = [long.view(shape, 3), copy].map((x) => scope(() => fn(x)));
        const [got, want] = await Promise.all(results.map((ys) => Promise.all(ys.map((y) => y.read()))));
        assert.deepEqual(got, want);
        for (const t of [long, copy, ...results.flat()]) t.dispose();
      }
    });

    it('a sample alone has the bits it has in a batch, with one thread and with two', async () => {
      const single = device.kind === 'cpu' ? Device.create('cpu', { isa, threads: 1 }) : undefined;
      const cases: [(...inputs: Tensor[]) => Tensor, (batch: number) => Shape[]][] = [
        [
          ada,
          (n) => [
            [n, 37, 33],
            [n, 1, 33],
            [n, 1, 33],
          ],
        ],
        [
          gatedAdd,
          (n) => [
            [n, 37, 33],
            [n, 37, 33],
            [n, 1, 33],
          ],
        ],
        [group(3, true), (n) => [[n, 20, 31, 36], [36], [36]]],
      ];
      for (const [fn, shapesOf] of cases) {
        const shapes = shapesOf(6);
        const values = shapes.map((shape, i) =>
          randomArray(
            20 + i,
            shape.reduce((a, b) => a * b),
          ),
        );
        const size = values[0]!.length;
        const weights = randomArray(30, size);
        const both = await bits(device, fn, values, shapes, weights);
        if (single) assert.deepEqual(await bits(single, fn, values, shapes, weights), both, 'threads');
        for (const sample of [0, 5]) {
          const rowsOf = (v: Numbers, i: number): Numbers =>
            shapes[i]![0] === 6 ? v.slice((sample * v.length) / 6, ((sample + 1) * v.length) / 6) : v;
          const alone = await bits(
            device,
            fn,
            values.map((v, i) => rowsOf(v, i) as Float64Array),
            shapesOf(1),
            rowsOf(weights, 0) as Float64Array,
          );
          assert.deepEqual(alone[0], rowsOf(both[0]!, 0), 'forward');
          for (let i = 0; i < shapes.length; i++)
            if (shapes[i]![0] === 6) assert.deepEqual(alone[1 + i], rowsOf(both[1 + i]!, i), `gradient ${i}`);
        }
      }
      single?.close();
    });

    it('bf16 activations with bf16 or f32 parameters are computed in float and rounded once', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor computes in f32 and f64
      const rows = (c: number): Shape[] => [[2, 35, c], [c], [c]];
      const modulated = (c: number): Shape[] => [
        [2, 35, c],
        [2, 1, c],
        [2, 1, c],
      ];
      const gated = (x: Tensor, y: Tensor, gate: Tensor): Tensor => gatedAdd(x, y, gate);
      const cases: [(...inputs: Tensor[]) => Tensor, Shape[], number][] = [
        ...[40, 33].map((c): [typeof ada, Shape[], number] => [layer, rows(c), 1]),
        ...[264, 33].map((c): [typeof ada, Shape[], number] => [ada, modulated(c), 1]),
        [(x, w) => rms(x, w), rows(520).slice(0, 2), 1],
        [layer, [[3, 8208], [8208], [8208]], 1],
        ...[24, 7].map((c): [typeof ada, Shape[], number] => [
          gated,
          [
            [2, 35, c],
            [2, 35, c],
            [2, 1, c],
          ],
          2,
        ]),
        [group(8, true), [[2, 9, 17, 64], [64], [64]], 1],
        [group(3, false), [[1, 21, 5, 33], [33], [33]], 1],
      ];
      const live = device.stats().liveTensors;
      for (const [fn, shapes, activations] of cases) {
        const values = shapes.map((shape, i) => randomBf16(50 + i, sizeOf(shape)));
        const cotangent = randomBf16(60, values[0]!.length);
        const results = (on: Device, types: DType[]): Tensor[] => {
          const as = (v: Float64Array, shape: Shape, dtype: DType): Tensor =>
            Tensor.from(dtype === 'bf16' ? toBf16(v) : v, shape, dtype, on);
          const inputs = shapes.map((shape, i) => as(values[i]!, shape, types[i]!));
          const tape = new Tape().watch(...inputs);
          const y = tape.run(() => fn(...inputs));
          const gy = as(cotangent, y.shape, types[0]!);
          const grads = tape.backward([{ of: y, cotangent: gy }]);
          const out = [y, ...inputs.map((t) => grads.get(t)!.retain())];
          grads.dispose();
          for (const t of [gy, ...inputs]) t.dispose();
          return out;
        };
        const want = results(
          referenceOf(device),
          shapes.map(() => 'f64'),
        );
        for (const parameter of ['bf16', 'f32'] as const) {
          const types = shapes.map((_, i) => (i < activations ? 'bf16' : parameter));
          const got = results(device, types);
          for (const [k, y] of got.entries()) {
            assert.equal(y.dtype, k === 0 ? 'bf16' : types[k - 1]);
            assertRounded(await y.readFloats(), await want[k]!.readFloats(), y.dtype, `output ${k} of ${shapes[0]}`);
            y.dispose();
          }
        }
        for (const y of want) y.dispose();
      }
      await assertClean(device, live);
    });

    it('refuses shapes that do not fit, by name', async () => {
      const live = device.stats().liveTensors;
      scope(() => {
        const x = random(device, 1, [2, 3, 8]);
        const w = random(device, 2, [7]);
        const refused = (fn: () => unknown): void =>
          assert.throws(fn, (e: unknown) => e instanceof InfinityError && e.code === 'INVALID_SHAPE');
        refused(() => layerNorm(x, w, null, EPS));
        refused(() => rmsNorm(x, w, EPS));
        refused(() => adaNorm(x, random(device, 3, [3, 1, 8]), random(device, 3, [3, 1, 8]), EPS));
        refused(() => groupNorm(x, random(device, 4, [8]), random(device, 4, [8]), 3, EPS));
        refused(() => gatedAdd(x, random(device, 5, [2, 3, 7]), random(device, 6, [2, 1, 8])));
      });
      await assertClean(device, live);
    });
  });
}
