import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import { gelu } from '../../lib/ops/elementwise.js';
import { Op } from '../../lib/ops/generated.js';
import { linear, packLinear } from '../../lib/ops/linear.js';
import { run } from '../../lib/ops/run.js';
import { Tape } from '../../lib/tape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { assertBf16, randomBf16, toBf16 } from '../support/bf16.js';
import {
  assertClean,
  assertGradients,
  assertMatchesReference,
  isaDevices,
  random,
  randomArray,
  relativeError,
} from '../support/numeric.js';
import { assertProducts } from '../support/products.js';

/** [M, N, K]: single elements, edges of every tile and panel, sums of several blocks, long sums over rows. */
const sizes = [
  [1, 1, 1],
  [1, 33, 31],
  [31, 1, 33],
  [3, 16, 256],
  [33, 31, 257],
  [29, 96, 513],
  [113, 70, 40],
  [15, 530, 5],
] as const;

/** Enough tiles for the largest ones of a card, with ragged edges; whole chunks and odd ones. */
const large = [
  [250, 230, 37],
  [512, 256, 40],
  [300, 8, 136],
] as const;

async function floats(make: () => Tensor): Promise<Float32Array | Float64Array> {
  const t = scope(make);
  const data = await t.readFloats();
  t.dispose();
  return data;
}

/** The ops of both gradients with the shapes of their inputs and outputs. */
function gradients(M: number, N: number, K: number) {
  return [
    [
      Op.linearBackwardInput,
      [
        [M, N],
        [N, K],
      ],
      [[M, K]],
    ],
    [
      Op.linearBackwardWeight,
      [
        [M, N],
        [M, K],
      ],
      [[N, K], [N]],
    ],
  ] as const;
}

for (const [isa, device] of isaDevices()) {
  describe(`linear on ${isa}`, () => {
    it('equals f64 at awkward sizes, with every epilogue', async () => {
      for (const [M, N, K] of sizes) {
        const shapes = [[M, K], [N, K], [N], [M, N], [1, N]];
        const what = `${M}x${N}x${K}`;
        await assertProducts(device, (x, w) => linear(x!, w!), shapes.slice(0, 2), what);
        await assertProducts(device, (x, w, b) => linear(x!, w!, b), shapes.slice(0, 3), what);
        await assertProducts(
          device,
          (x, w, b, residual) => linear(x!, w!, b, { residual: residual! }),
          shapes.slice(0, 4),
        );
        await assertProducts(
          device,
          (x, w, b, residual, gate) => linear(x!, w!, b, { residual: residual!, gate: gate! }),
          shapes,
          what,
        );
        const [wide, tolerance] = [{ gelu: true } as const, 2 ** -23 * Math.max(4, Math.sqrt(K))];
        await assertMatchesReference(device, (x, w, b) => linear(x!, w!, b, wide), shapes.slice(0, 3), { tolerance });
      }
    });

    it('a gate serves the rows of its group', async () => {
      const shapes = [
        [3, 5, 20],
        [18, 20],
        [3, 5, 18],
        [3, 1, 18],
      ];
      await assertProducts(device, (x, w, r, g) => linear(x!, w!, null, { residual: r!, gate: g! }), shapes);
    });

    it('input and weight gradients equal f64 at awkward sizes', async () => {
      for (const [M, N, K] of [...sizes, [600, 20, 45], [9000, 3, 2]] as const) {
        const gradients = (x: Tensor, w: Tensor, b: Tensor, gy: Tensor): Tensor[] => {
          const tape = new Tape().watch(x, w, b);
          const y = tape.run(() => linear(x, w, b));
          const grads = tape.backward([{ of: y, cotangent: gy }]);
          return [x, w, b].map((t) => grads.get(t)!);
        };
        const shapes = [[M, K], [N, K], [N], [M, N]];
        await assertProducts(device, (x, w, b, gy) => gradients(x!, w!, b!, gy!), shapes, `${M}x${N}x${K}`);
      }
    });

    it('gradients equal finite differences, with every epilogue', async () => {
      await assertGradients(device, (x, w, b) => linear(x!, w!, b), [[2, 3, 4], [5, 4], [5]]);
      await assertGradients(device, (x, w, b) => linear(x!, w!, b, { gelu: true }), [[3, 4], [5, 4], [5]]);
      await assertGradients(device, (x, w, r, g) => linear(x!, w!, null, { residual: r!, gate: g! }), [
        [2, 3, 4],
        [5, 4],
        [2, 3, 5],
        [2, 1, 5],
      ]);
    });

    it('packed weights give the same bits, and in bf16 the bits of rounded weights', async () => {
      for (const [M, N, K] of sizes) {
        const live = device.stats().liveTensors;
        const [x, w, b] = [random(device, 1, [M, K]), random(device, 2, [N, K]), random(device, 3, [N])];
        const plain = await floats(() => linear(x, w, b, { gelu: true }));
        const packed = packLinear(w);
        assert.deepEqual(await floats(() => linear(x, packed, b, { gelu: true })), plain);
        // Two to the minus seven survives rounding to bf16, more digits do not.
        const raw = Uint16Array.from(
          randomArray(4, N * K),
          (v) => (v < 0 ? 0xbf80 : 0x3f80) + Math.floor(Math.abs(v) * 100),
        );
        const half = Tensor.from(raw, [N, K], 'bf16', device);
        const wide = Tensor.from(await half.readFloats(), [N, K], 'f32', device);
        const packedHalf = packLinear(wide, { dtype: 'bf16' });
        const want = await floats(() => linear(x, wide, b));
        assert.deepEqual(await floats(() => linear(x, packedHalf, b)), want);
        assert.deepEqual(await floats(() => linear(x, half, b)), want);
        for (const t of [x, w, b, packed, half, wide, packedHalf]) t.dispose();
        await assertClean(device, live);
      }
    });

    it('rounds to nearest even when it packs to bf16', async () => {
      const x = Tensor.from([1], [1, 1], 'f32', device);
      const values = [1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -8 + 2 ** -20, -1 - 2 ** -8, 0.1];
      const w = Tensor.from(Float32Array.from(values), [values.length, 1], 'f32', device);
      const packed = packLinear(w, { dtype: 'bf16' });
      const got = await floats(() => linear(x, packed));
      assert.deepEqual([...got], [1, 1 + 2 ** -6, 1 + 2 ** -7, -1, Math.fround(0.10009765625)]);
      for (const t of [x, w, packed]) t.dispose();
    });

    it('a row gives the same bits alone, in a batch, and on any number of threads', async () => {
      const [M, N, K] = [37, 75, 300];
      const one = device.kind === 'cpu' ? Device.create('cpu', { isa, threads: 1 }) : null;
      const outputs: (Float32Array | Float64Array)[][] = [];
      for (const d of [device, one ?? device]) {
        const [x, w, b, gy] = [
          random(d, 1, [M, K]),
          random(d, 2, [N, K]),
          random(d, 3, [N]),
          random(d, 4, [M, N]),
        ] as const;
        const packed = packLinear(w);
        const whole = await floats(() => linear(x, packed, b, { gelu: true }));
        for (const row of [0, 13, 14, 36]) {
          const alone = await floats(() => linear(x.view([1, K], row * K), packed, b, { gelu: true }));
          assert.deepEqual(alone, whole.slice(row * N, (row + 1) * N));
        }
        const tape = new Tape().watch(x, w, b);
        const y = tape.run(() => linear(x, w, b));
        const grads = tape.backward([{ of: y, cotangent: gy }]);
        outputs.push([whole, ...(await Promise.all([x, w, b].map((t) => grads.get(t)!.readFloats())))]);
        grads.dispose();
        for (const t of [x, w, b, gy, packed, y]) t.dispose();
      }
      assert.deepEqual(outputs[0], outputs[1]);
      one?.close();
    });

    it('equals f64 with the tiles of a card for many rows, forward and backward', async function () {
      if (device.kind !== 'cuda') this.skip(); // sizes that make a card choose them
      for (const [M, N, K] of large) {
        const what = `${M}x${N}x${K}`;
        await assertProducts(device, (x, w, b) => linear(x!, w!, b), [[M, K], [N, K], [N]], what);
        for (const [op, shapes, outputs] of gradients(M, N, K)) {
          const backward = (...t: Tensor[]) =>
            run(
              op,
              t,
              outputs.map((shape) => ({ dtype: t[0]!.dtype, shape })),
            );
          await assertProducts(device, backward, shapes, what);
        }
      }
    });

    it('bf16: within twice the rounding of the exact result, gradients of weights in f32', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor computes in f32 and f64
      for (const [M, N, K] of [...sizes, ...large, [1100, 24, 16]] as const) {
        const shapes = [[M, K], [N, K], [N], [M, N], [1, N]];
        await assertBf16(device, Op.linear, shapes, [[M, N]], { params: [M % 2] });
        const [[input, ...forInput], [weight, ...forWeight]] = gradients(M, N, K);
        await assertBf16(device, input, ...forInput);
        // A tensor core may drop what is below the last place of the larger summand, once in sixteen terms.
        const tolerance = 2 ** -23 * (4 + M / 16);
        await assertBf16(device, weight, ...forWeight, { result: 'f32', tolerance });
      }
    });

    it('bf16: a row gives the same bits alone and in a batch, and may be added to an f32 residual', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor computes in f32 and f64
      const [M, N, K] = [513, 256, 72];
      const live = device.stats().liveTensors;
      const values = [randomBf16(1, M * K), randomBf16(2, N * K), randomBf16(3, M * N)] as const;
      const x = Tensor.from(toBf16(values[0]), [M, K], 'bf16', device);
      const w = Tensor.from(toBf16(values[1]), [N, K], 'bf16', device);
      const residual = Tensor.from(values[2], [M, N], 'f32', device);
      const product = (rows: number, first: number): Promise<Float32Array | Float64Array> =>
        floats(() => {
          const operands = [x.view([rows, K], first * K), w, null, residual.view([rows, N], first * N), null];
          return run(Op.linear, operands, [{ dtype: 'f32', shape: [rows, N] }], [0])[0]!;
        });
      const whole = await product(M, 0);
      for (const row of [0, 200, 512]) assert.deepEqual(await product(1, row), whole.slice(row * N, (row + 1) * N));
      const want = Float64Array.from(whole, (_, i) => {
        let sum = values[2][i]!;
        for (let k = 0; k < K; k++) sum += values[0][Math.floor(i / N) * K + k]! * values[1][(i % N) * K + k]!;
        return sum;
      });
      assert.ok(relativeError(whole, want) < 2e-6);
      for (const t of [x, w, residual]) t.dispose();
      await assertClean(device, live);
    });

    it('fused epilogues equal their composed definition', async () => {
      const live = device.stats().liveTensors;
      const [x, w, b] = [random(device, 1, [33, 70]), random(device, 2, [45, 70]), random(device, 3, [45])];
      const fused = await floats(() => linear(x, w, b, { gelu: true }));
      assert.deepEqual(fused, await floats(() => gelu(linear(x, w, b))));
      for (const t of [x, w, b]) t.dispose();
      await assertClean(device, live);
    });
  });
}

describe('linear', () => {
  it('refuses shapes that do not fit and gradients it does not have', () => {
    scope(() => {
      const x = Tensor.from([1, 2], [1, 2]);
      const w = Tensor.from([1, 2, 3], [1, 3]);
      const fits = Tensor.from([1, 2], [1, 2]);
      const shape = (e: unknown) => e instanceof InfinityError && e.code === 'INVALID_SHAPE';
      assert.throws(() => linear(x, w), shape);
      assert.throws(() => linear(x, fits, x), shape);
      assert.throws(() => linear(x, fits, null, { residual: x }), shape);
      assert.throws(() => packLinear(Tensor.from([1], [1])), shape);
      const packed = packLinear(fits);
      assert.throws(
        () => new Tape().watch(x).run(() => linear(x, packed)),
        (e) => e instanceof InfinityError && e.code === 'NOT_DIFFERENTIABLE',
      );
      packed.dispose();
    });
  });

  it('bf16 weights stay close to f32 ones', async () => {
    const device = Device.default();
    const [x, w] = [random(device, 1, [5, 400]), random(device, 2, [30, 400])];
    const packed = packLinear(w, { dtype: 'bf16' });
    const error = relativeError(await floats(() => linear(x, packed)), await floats(() => linear(x, w)));
    assert.ok(error < 2 ** -8 && error > 2 ** -14, `${error}`);
    for (const t of [x, w, packed]) t.dispose();
  });
});
