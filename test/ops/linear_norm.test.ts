import assert from 'node:assert/strict';
import type { Device } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import { add, addScalar, mul } from '../../lib/ops/elementwise.js';
import { Op } from '../../lib/ops/generated.js';
import { linear, type PackedWeight, packLinear } from '../../lib/ops/linear.js';
import { linearMeasured, linearNormed } from '../../lib/ops/linear_norm.js';
import { adaNorm, rmsNorm } from '../../lib/ops/norm.js';
import { run, shaped } from '../../lib/ops/run.js';
import { cast, cat, fill, permute, reshape, slice } from '../../lib/ops/shape.js';
import { Tape } from '../../lib/tape.js';
import { type Shape, scope, sizeOf, Tensor } from '../../lib/tensor.js';
import { randomBf16, roundToBf16, toBf16 } from '../support/bf16.js';
import {
  assertClean,
  assertMatchesReference,
  CUDA,
  isaDevice,
  isaDevices,
  random,
  randomArray,
  referenceOf,
  relativeError,
} from '../support/numeric.js';
import { EMULATED, onRoute, ROUTES } from '../support/product_routes.js';

const EPS = 1e-6;
const RUN = 32;

/** Rows [B, L], features before, in and behind the norm: one run and several, whole and ragged, aligned and not, every kind of tile. */
interface Case {
  readonly B: number;
  readonly L: number;
  readonly K: number;
  readonly C: number;
  readonly N: number;
}
const cases: readonly Case[] = [
  { B: 1, L: 1, K: 8, C: 1, N: 1 },
  { B: 2, L: 3, K: 32, C: 32, N: 32 },
  { B: 2, L: 5, K: 17, C: 33, N: 31 },
  { B: 3, L: 23, K: 24, C: 72, N: 130 },
  { B: 2, L: 70, K: 40, C: 296, N: 24 },
];
const shapesOf = ({ B, L, K, C, N }: Case) =>
  ({
    x: [B, L, K],
    w1: [C, K],
    b1: [C],
    onto: [B, L, C],
    gate: [B, 1, C],
    affine: [B, 2, C],
    w2: [N, C],
    b2: [N],
  }) as const;

const measured = (
  x: Tensor,
  w: Tensor,
  b: Tensor | null,
  onto: Tensor,
  gate: Tensor | null,
  affine: Tensor,
): Tensor[] => {
  const [C, rows] = [w.shape[0]!, x.shape.slice(0, -1)];
  const moments = { dtype: affine.dtype, shape: [...rows, Math.ceil(C / RUN), 2] };
  return run(
    Op.linearMeasured,
    [x, w, b, onto, gate, affine],
    [shaped(onto, onto.shape), shaped(x, [...rows, C]), moments],
  );
};
const normed = (
  scaled: Tensor,
  w: Tensor,
  b: Tensor | null,
  moments: Tensor,
  projected: Tensor,
  [eps, centred, gelu]: readonly [number, number, number],
): Tensor =>
  run(
    Op.linearNormed,
    [scaled, w, b, moments, projected],
    [shaped(scaled, [...scaled.shape.slice(0, -1), w.shape[0]!])],
    [eps, centred, gelu],
  )[0]!;

/** What the two ops are together, from ops that have tests of their own. */
function composed(
  [x, w1, b1, onto, gate, affine, w2, b2]: readonly Tensor[],
  centred: boolean,
): { sum: Tensor; y: Tensor } {
  const [B, , C] = affine!.shape as [number, number, number];
  const sum = linear(x!, w1!, b1, { residual: onto!, gate: gate! });
  const part = (i: number) => reshape(slice(affine!, 1, i, i + 1), [B, 1, C]);
  const scale = addScalar(part(0), -1);
  if (centred) return { sum, y: linear(adaNorm(sum, scale, part(1), EPS), w2!, b2) };
  const one = rmsNorm(sum, fill([C], 1, sum.dtype, sum.device), EPS);
  const rows = Array.from({ length: B }, (_, b) => {
    const scaled = permute(slice(one, 0, b, b + 1), [2, 0, 1]);
    const column = (i: number) => reshape(slice(reshape(part(i), [B, C]), 0, b, b + 1), [C, 1, 1]);
    return permute(add(mul(scaled, column(0)), column(1)), [1, 2, 0]);
  });
  return { sum, y: linear(cat(rows, 0), w2!, b2) };
}

for (const [isa, device] of isaDevices()) {
  describe(`linear layers around a norm on ${isa}`, () => {
    it('are those layers and the norm', async () => {
      for (const c of cases)
        for (const centred of [true, false]) {
          const { x, w1, b1, onto, gate, affine, w2, b2 } = shapesOf(c);
          const reference = referenceOf(device);
          const shapes = [x, w1, b1, onto, gate, affine, w2, b2];
          const want = scope(() =>
            composed(
              shapes.map((s, i) => random(reference, i + 1, s, 'f64')),
              centred,
            ),
          );
          const got = scope(() => {
            const [tx, tw1, tb1, tonto, tgate, taffine, tw2, tb2] = shapes.map((s, i) => random(device, i + 1, s)) as [
              Tensor,
              Tensor,
              Tensor,
              Tensor,
              Tensor,
              Tensor,
              Tensor,
              Tensor,
            ];
            const [sum, scaled, moments] = measured(tx, tw1, tb1, tonto, tgate, taffine) as [Tensor, Tensor, Tensor];
            return { sum, y: normed(scaled, tw2, tb2, moments, linear(taffine, tw2), [EPS, Number(centred), 0]) };
          });
          const what = `${JSON.stringify(c)}, centred ${centred}`;
          const error = async (key: 'sum' | 'y') =>
            relativeError(await got[key].readFloats(), await want[key].readFloats());
          assert.ok((await error('sum')) <= 2e-6, what);
          // One column has no variance: what is left of it is rounding, divided by √eps.
          if (c.C > 1) assert.ok((await error('y')) <= 4e-6, `${what}: ${await error('y')}`);
          for (const t of [...Object.values(want), ...Object.values(got)]) t.dispose();
        }
    });

    it('each equals f64, with and without its parts', async () => {
      for (const c of cases) {
        const { x, w1, b1, onto, gate, affine, w2, b2 } = shapesOf(c);
        const { B, L, C, N } = c;
        const runs = Math.ceil(C / RUN);
        const options = { tolerance: 4e-6 };
        await assertMatchesReference(
          device,
          (x, w, b, r, g, a) => measured(x!, w!, b!, r!, g!, a!),
          [x, w1, b1, onto, gate, affine],
          options,
        );
        await assertMatchesReference(
          device,
          (x, w, r, a) => measured(x!, w!, null, r!, null, a!),
          [x, w1, onto, [1, 2, C]],
          options,
        );
        const given = (all: Tensor): Tensor => addScalar(all, 2); // deviations are positive
        for (const [centred, gelued] of [
          [1, 0],
          [0, 1],
        ] as const) {
          const params = [EPS, centred, gelued] as const;
          await assertMatchesReference(
            device,
            (x, w, b, m, p) => normed(x!, w!, b!, given(m!), p!, params),
            [onto, w2, b2, [B, L, runs, 2], [B, 2, N]],
            options,
          );
          await assertMatchesReference(
            device,
            (x, w, m, p) => normed(x!, w!, null, given(m!), p!, params),
            [onto, w2, [B, L, runs, 2], [1, 2, N]],
            options,
          );
        }
      }
    });

    it('moments keep their digits when the mean is far from zero', async () => {
      const [rows, K, C] = [3, 8, 80];
      const values = Float64Array.from(randomArray(4, rows * C), (v) => 1000 + v);
      const stored = Float32Array.from(values);
      const scopeOf = scope(() => {
        const onto = Tensor.from(stored, [1, rows, C], 'f32', device);
        return measured(
          fill([1, rows, K], 0, 'f32', device),
          random(device, 1, [C, K]),
          null,
          onto,
          null,
          random(device, 2, [1, 2, C]),
        );
      });
      const moments = await scopeOf[2]!.readFloats();
      for (let r = 0; r < rows; r++)
        for (let run = 0; run < Math.ceil(C / RUN); run++) {
          const part = stored.slice(r * C + run * RUN, Math.min(r * C + (run + 1) * RUN, (r + 1) * C));
          const mean = part.reduce((a, b) => a + b, 0) / part.length;
          const deviation = part.reduce((a, b) => a + (b - mean) ** 2, 0);
          const at = 2 * (r * Math.ceil(C / RUN) + run);
          assert.ok(Math.abs(moments[at]! / mean - 1) <= 2 ** -23, `mean ${moments[at]} for ${mean}`);
          assert.ok(Math.abs(moments[at + 1]! / deviation - 1) <= 1e-5, `${moments[at + 1]} for ${deviation}`);
        }
      for (const t of scopeOf) t.dispose();
    });
  });
}

/** What `fn` makes of packed weights. */
function withKernels<T>(weights: readonly Tensor[], fn: (kernels: PackedWeight[]) => T): T {
  const kernels = weights.map((w) => packLinear(w, { dtype: 'bf16' }));
  const made = fn(kernels);
  for (const kernel of kernels) kernel.dispose();
  return made;
}

/** W·norm(residual + x·W₁ᵀ) in double precision, from numbers that bf16 holds. */
function exact(
  { x, w1, onto, affine, w2 }: Record<'x' | 'w1' | 'onto' | 'affine' | 'w2', Float64Array>,
  rows: number,
  [K, C, N]: readonly [number, number, number],
): Float64Array {
  const out = new Float64Array(rows * N);
  for (let r = 0; r < rows; r++) {
    const sum = Array.from({ length: C }, (_, c) => {
      let s = onto[r * C + c]!;
      for (let k = 0; k < K; k++) s += x[r * K + k]! * w1[c * K + k]!;
      return s;
    });
    const mean = sum.reduce((a, b) => a + b, 0) / C;
    const rstd = 1 / Math.sqrt(sum.reduce((a, b) => a + (b - mean) ** 2, 0) / C + EPS);
    for (let n = 0; n < N; n++) {
      let y = 0;
      for (let c = 0; c < C; c++) y += w2[n * C + c]! * ((sum[c]! - mean) * rstd * affine[c]! + affine[C + c]!);
      out[r * N + n] = y;
    }
  }
  return out;
}

describe(`linear layers around a norm in bf16 on ${CUDA}`, () => {
  before(function () {
    if (!process.env.NODE_INFINITY_CUDA_LIBRARY) this.skip(); // no card and none emulated
  });

  /** Root mean square errors of the composed ops and of these, for rows of a mean and with one channel that is larger. */
  async function errors(device: Device, mean: number, outlier: number): Promise<{ plain: number; folded: number }> {
    const [rows, K, C, N] = [40, 32, 320, 48];
    const live = device.stats().liveTensors;
    const onto = Float64Array.from(randomBf16(3, rows * C, Math.sqrt(3)), (v, i) =>
      roundToBf16((mean + v) * (i % C === 7 ? outlier : 1)),
    );
    const scale = Float64Array.from(randomBf16(4, C, 0.3), (v) => roundToBf16(v));
    const shift = randomBf16(5, C, 0.3);
    const values = {
      ...{ x: randomBf16(1, rows * K), w1: randomBf16(2, C * K, 0.2), onto, w2: randomBf16(6, N * C, 0.1) },
      affine: Float64Array.from([...scale.map((s) => 1 + s), ...shift]),
    };
    const want = exact(values, rows, [K, C, N]);
    const half = (v: Float64Array, shape: Shape) => Tensor.from(toBf16(v), shape, 'bf16', device);
    const { plain, folded } = scope(() => {
      const [x, w1, r, w2] = [
        half(values.x, [1, rows, K]),
        half(values.w1, [C, K]),
        half(onto, [1, rows, C]),
        half(values.w2, [N, C]),
      ];
      const affine = Tensor.from(Float32Array.from(values.affine), [1, 2, C], 'f32', device);
      const norm = adaNorm(linear(x, w1, null, { residual: r }), half(scale, [1, 1, C]), half(shift, [1, 1, C]), EPS);
      const folded = withKernels([w1, w2], ([first, second]) => {
        const measured = linearMeasured(x, first!, null, { residual: r }, affine);
        return linearNormed(measured, second!, null, linear(affine, second!), { eps: EPS, centred: true });
      });
      return { plain: cast(linear(norm, w2), 'f32'), folded: cast(folded, 'f32') };
    });
    const rms = async (t: Tensor) => {
      const got = await t.readFloats();
      t.dispose();
      return Math.sqrt(want.reduce((sum, v, i) => sum + (got[i]! - v) ** 2, 0) / want.length);
    };
    const found = { plain: await rms(plain), folded: await rms(folded) };
    await assertClean(device, live);
    return found;
  }

  it('are as exact as one by one, whatever the mean and however large a channel is', async () => {
    for (const [mean, outlier] of [
      [0, 1],
      [1, 1],
      [10, 1],
      [0, 100],
      [1, 100],
    ] as const) {
      const { plain, folded } = await errors(isaDevice(CUDA), mean, outlier);
      assert.ok(folded <= 1.25 * plain, `mean ${mean}, outlier ${outlier}: ${folded} for ${plain}`);
    }
  });

  for (const route of ROUTES)
    it(`by ${route}: a row has the same bits alone and in a batch, whichever tile is taken`, async function () {
      const device = onRoute(route);
      if (typeof device === 'string') return this.skip(); // there is no such way here
      const [B, L, K, C, N] = [3, 130, 24, 296, 136];
      for (const dtype of route === 'fragments' ? (['f32', 'bf16'] as const) : (['bf16'] as const)) {
        const given = (seed: number, shape: Shape) =>
          dtype === 'f32'
            ? random(device, seed, shape)
            : Tensor.from(toBf16(randomArray(seed, sizeOf(shape))), shape, dtype, device);
        const [x, w1, onto, gate, w2] = (
          [
            [B, L, K],
            [C, K],
            [B, L, C],
            [B, 1, C],
            [N, C],
          ] as const
        ).map((s, i) => given(i + 1, s)) as [Tensor, Tensor, Tensor, Tensor, Tensor];
        const [b, affine] = [random(device, 8, [C]), random(device, 9, [B, 2, C])];
        const kernels = [w1, w2].map((w) => packLinear(w, { dtype }));
        const projected = linear(affine, kernels[1]!);
        const both = (x: Tensor, onto: Tensor, gate: Tensor, affine: Tensor, projected: Tensor) =>
          scope(() => {
            const rows = linearMeasured(x, kernels[0]!, b, { residual: onto, gate }, affine);
            const y = linearNormed(rows, kernels[1]!, null, projected, { eps: EPS, centred: true, gelu: true });
            return [rows.sum, cast(rows.scaled, 'f32'), rows.moments, cast(y, 'f32')];
          });
        const read = async (all: Tensor[]) => {
          const values = await Promise.all(all.map((t) => t.readFloats()));
          for (const t of all) t.dispose();
          return values;
        };
        const all = await read(both(x, onto, gate, affine, projected));
        for (const [sample, row] of [
          [0, 0],
          [1, 77],
          [2, 129],
        ] as const) {
          const at = sample * L + row;
          const one = (t: Tensor, shape: number[], index: number) => t.view(shape, index * sizeOf(shape));
          const parts = [
            one(x, [1, 1, K], at),
            one(onto, [1, 1, C], at),
            one(gate, [1, 1, C], sample),
            one(affine, [1, 2, C], sample),
            one(projected, [1, 2, N], sample),
          ] as const;
          const alone = await read(both(...parts));
          for (const [i, values] of alone.entries())
            assert.deepEqual(values, all[i]!.slice(at * values.length, (at + 1) * values.length));
          for (const t of parts) t.dispose();
        }
        for (const t of [x, w1, onto, gate, w2, b, affine, projected, ...kernels]) t.dispose();
      }
      const took = device.decisions().filter((line) => /linear_(measured|normed)/.test(line));
      assert.ok(took.length >= 4);
      // What the library would leave unfinished costs more than a norm.
      for (const line of took)
        assert.match(
          line,
          route === 'cublaslt' ? /fragments \(not for cublaslt\)/ : new RegExp(`${route} \\(asked for\\)`),
        );
      await assertClean(device, 0);
      device.close();
    });

  it('by warpgroups: the bits of fragments', async function () {
    if (!EMULATED) return this.skip(); // a card may add in another order for another instruction
    const routes = [onRoute('fragments'), onRoute('warpgroups')];
    if (routes.some((r) => typeof r === 'string')) return this.skip(); // there is no card of compute capability 9.0
    const results = await Promise.all(
      (routes as Device[]).map(async (device) => {
        const [M, K, C, N] = [70, 72, 264, 520];
        const half = (seed: number, shape: Shape) =>
          Tensor.from(toBf16(randomArray(seed, sizeOf(shape))), shape, 'bf16', device);
        const y = scope(() => {
          const affine = random(device, 4, [1, 2, C]);
          return withKernels([half(2, [C, K]), half(5, [N, C])], ([first, second]) => {
            const rows = linearMeasured(half(1, [1, M, K]), first!, null, { residual: half(3, [1, M, C]) }, affine);
            const projected = linear(affine, second!);
            return cast(linearNormed(rows, second!, null, projected, { eps: EPS, centred: true }), 'f32');
          });
        });
        const values = await y.readFloats();
        y.dispose();
        await assertClean(device, 0);
        device.close();
        return values;
      }),
    );
    assert.deepEqual(results[0], results[1]);
  });

  it('refuse what does not fit, and a tape', () => {
    const device = isaDevice(CUDA);
    scope(() => {
      const [x, onto, affine] = [
        random(device, 1, [2, 3, 8]),
        random(device, 2, [2, 3, 40]),
        random(device, 3, [2, 2, 40]),
      ];
      const [kernel, reader] = [packLinear(random(device, 4, [40, 8])), packLinear(random(device, 5, [16, 40]))];
      const invalid = (e: unknown) => e instanceof InfinityError && e.code === 'INVALID_SHAPE';
      const measure = (into: Tensor, pair: Tensor, gate?: Tensor) =>
        linearMeasured(x, kernel, null, { residual: into, gate }, pair);
      assert.throws(() => measure(x, affine), invalid);
      assert.throws(() => measure(onto, onto), invalid);
      assert.throws(() => measure(onto, affine, x), invalid);
      assert.throws(() => new Tape().watch(x).run(() => measure(onto, affine)), /gradient/);
      const rows = measure(onto, affine);
      const options = { eps: EPS, centred: true };
      assert.throws(() => linearNormed(rows, kernel, null, affine, options), invalid);
      assert.throws(() => linearNormed(rows, reader, null, affine, options), invalid);
      assert.throws(
        () => linearNormed({ ...rows, moments: onto }, reader, null, linear(affine, reader), options),
        invalid,
      );
      for (const k of [kernel, reader]) k.dispose();
    });
  });
});
