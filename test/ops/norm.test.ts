import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import {
  adaNorm,
  gatedAdd,
  groupNorm,
  groupNormApply,
  groupNormStats,
  layerNorm,
  rmsNorm,
} from '../../lib/ops/norm.js';
import { cat, slice } from '../../lib/ops/shape.js';
import { Tape } from '../../lib/tape.js';
import { type Shape, scope, Tensor } from '../../lib/tensor.js';
import {
  assertClean,
  assertGradients,
  assertMatchesReference,
  isaDevices,
  random,
  randomArray,
  relativeError,
} from '../support/numeric.js';

const EPS = 1e-6;
type Numbers = Float32Array | Float64Array;

/** Normalises the elements of x that `member` gives the same group, by the textbook. */
function normalise(x: Numbers, groupOf: (i: number) => number, centre: boolean): Float64Array {
  const members = new Map<number, number[]>();
  for (let i = 0; i < x.length; i++) {
    const list = members.get(groupOf(i));
    if (list) list.push(i);
    else members.set(groupOf(i), [i]);
  }
  const out = new Float64Array(x.length);
  for (const list of members.values()) {
    const mean = centre ? list.reduce((sum, i) => sum + x[i]!, 0) / list.length : 0;
    const variance = list.reduce((sum, i) => sum + (x[i]! - mean) ** 2, 0) / list.length;
    for (const i of list) out[i] = (x[i]! - mean) / Math.sqrt(variance + Math.fround(EPS));
  }
  return out;
}

/** The f64 result of `fn` on the inputs that `random` gives for the seeds 1, 2, ... */
async function inDoubles(device: Device, fn: (...inputs: Tensor[]) => Tensor, shapes: Shape[]): Promise<Numbers> {
  const y = scope(() => fn(...shapes.map((shape, i) => random(device, 1 + i, shape, 'f64'))));
  const values = await y.readFloats();
  y.dispose();
  return values;
}
const input = (i: number, n: number): Float64Array => randomArray(1 + i, n);

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

for (const [isa, device] of isaDevices()) {
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
          [await inDoubles(device, layer, [[2, 3, c], [c], [c]]), (i) => centred[i]! * p[i % c]! + q[i % c]!],
          [
            await inDoubles(device, ada, [
              [2, 3, c],
              [2, 1, c],
              [2, 1, c],
            ]),
            (i) => {
              const at = Math.floor(i / (3 * c)) * c + (i % c);
              return centred[i]! * (1 + p[at]!) + q[at]!;
            },
          ],
          [await inDoubles(device, (y) => layerNorm(y, null, null, EPS), [[2, 3, c]]), (i) => centred[i]!],
          [await inDoubles(device, rms, [[2, 3, c], [c]]), (i) => plain[i]! * p[i % c]!],
        ];
        for (const [got, want] of cases)
          assert.ok(
            relativeError(
              got,
              Float64Array.from(got, (_, i) => want(i)),
            ) < 1e-12,
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

    it('groupNorm follows its definition, over several runs of pixels, with and without silu', async () => {
      const cases: [number[], number][] = [
        [[2, 3, 3, 6], 3],
        [[1, 5, 31, 33], 11],
        [[2, 9, 64, 32], 8],
      ];
      for (const [shape, groups] of cases) {
        const [batch, channels] = [shape[0]!, shape[3]!];
        const n = shape.reduce((a, b) => a * b);
        const x = input(0, n);
        const [w, b] = [input(1, channels), input(2, channels)];
        const width = channels / groups;
        const groupOf = (i: number): number =>
          Math.floor(i / (n / batch)) * groups + Math.floor((i % channels) / width);
        const normal = normalise(x, groupOf, true);
        const z = normal.map((v, i) => v * w[i % channels]! + b[i % channels]!);
        const shapes = [shape, [channels], [channels]];
        assert.ok(relativeError(await inDoubles(device, group(groups, false), shapes), z) < 1e-12);
        const silu = z.map((v) => v / (1 + Math.exp(-v)));
        assert.ok(relativeError(await inDoubles(device, group(groups, true), shapes), silu) < 1e-12);
        await assertMatchesReference(device, group(groups, true), shapes, { tolerance: 4e-6 });
      }
    });

    it('groupNorm in two steps, the second on parts, has the bits of groupNorm', async () => {
      for (const [silu, shape, groups] of [
        [true, [2, 13, 21, 36], 3],
        [false, [1, 40, 33, 31], 1],
      ] as const) {
        const C = shape[3];
        const live = device.stats().liveTensors;
        const [whole, parts] = scope(() => {
          const [x, w, b] = [shape, [C], [C]].map((s, i) => random(device, 40 + i, s)) as [Tensor, Tensor, Tensor];
          const stats = groupNormStats(x, groups, EPS);
          const cuts = [0, 1, 7, shape[1]];
          const rows = cuts.slice(1).map((end, i) => slice(x, 1, cuts[i]!, end));
          const applied = rows.map((r) => groupNormApply(r, stats, w, b, { silu }));
          return [groupNorm(x, w, b, groups, EPS, { silu }), cat(applied, 1)];
        });
        assert.deepEqual(await parts.read(), await whole.read());
        whole.dispose();
        parts.dispose();
        await assertClean(device, live);
      }
    });

    it('groupNorm keeps its digits when the mean is far from zero', async () => {
      const far = (x: Tensor, w: Tensor, b: Tensor): Tensor => groupNorm(x, w, b, 4, EPS);
      const n = 2 * 16 * 64 * 32;
      const x = randomArray(1, n).map((v) => Math.fround(v + 100));
      const [w, b] = [randomArray(2, 32), randomArray(3, 32)];
      const [got, want] = await Promise.all(
        (['f32', 'f64'] as const).map(async (dtype) => {
          const y = scope(() =>
            far(
              Tensor.from(x, [2, 16, 64, 32], dtype, device),
              Tensor.from(w, [32], dtype, device),
              Tensor.from(b, [32], dtype, device),
            ),
          );
          const values = await y.readFloats();
          y.dispose();
          return values;
        }),
      );
      // Half an ulp of the mean, 4e-6 at 100, is what the centred values can lose.
      assert.ok(relativeError(got!, want!) < 1e-5);
    });

    it('gradients of groupNorm equal finite differences', async () => {
      for (const silu of [false, true])
        for (const [c, groups] of [
          [6, 3],
          [18, 2],
        ] as const)
          await assertGradients(device, group(groups, silu), [[2, 2, 3, c], [c], [c]], { tolerance: 2e-6 });
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
      for (const [fn, shapes] of cases) {
        const gradients = (...inputs: Tensor[]): Tensor[] => {
          const tape = new Tape().watch(...inputs);
          const y = tape.run(() => fn(...inputs));
          const grads = tape.backward([{ of: y, cotangent: random(device, 9, y.shape, y.dtype as 'f32' | 'f64') }]);
          return inputs.map((t) => grads.get(t)!);
        };
        await assertMatchesReference(device, gradients, shapes, { tolerance: 1e-5 });
      }
    });

    it('a sample alone has the bits it has in a batch, with one thread and with two', async () => {
      const single = Device.create('cpu', { isa, threads: 1 });
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
        assert.deepEqual(await bits(single, fn, values, shapes, weights), both, 'threads');
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
      single.close();
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
