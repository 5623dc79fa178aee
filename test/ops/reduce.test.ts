import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { addScalar, scale } from '../../lib/ops/elementwise.js';
import { Op } from '../../lib/ops/generated.js';
import { l1Loss } from '../../lib/ops/loss.js';
import { sumSquares } from '../../lib/ops/optim.js';
import * as ops from '../../lib/ops/reduce.js';
import { run } from '../../lib/ops/run.js';
import { sizeOf, Tensor } from '../../lib/tensor.js';
import { assertBf16, randomBf16, toBf16 } from '../support/bf16.js';
import { assertGradients, assertMatchesReference, isaDevices, randomArray } from '../support/numeric.js';

/** Plain sums over axis `axis` of a row-major array. */
function sumAxisReference(x: Float64Array, shape: number[], axis: number): number[] {
  const inner = shape.slice(axis + 1).reduce((n, e) => n * e, 1);
  const n = shape[axis]!;
  const out = new Array<number>(x.length / n).fill(0);
  for (let i = 0; i < x.length; i++) out[Math.floor(i / (n * inner)) * inner + (i % inner)]! += x[i]!;
  return out;
}

/** Numbers of very different size: another order of their sum shows in its bits. */
function wideArray(n: number): Float64Array {
  return randomArray(5, n).map((x, i) => x * 10 ** (((i * 7) % 19) - 9));
}

for (const [isa, device] of isaDevices()) {
  describe(`reduce on ${isa}`, () => {
    it('sums each axis as plain loops do', async () => {
      const shape = [3, 70, 5];
      const values = randomArray(1, 3 * 70 * 5);
      const [dtype, tolerance] = device.kind === 'cuda' ? (['f32', 2e-6] as const) : (['f64', 1e-12] as const);
      const x = Tensor.from(values, shape, dtype, device);
      for (const axis of [0, 1, 2, -1]) {
        const y = ops.sumAxis(x, axis);
        const at = axis < 0 ? axis + 3 : axis;
        const want = sumAxisReference(values, shape, at);
        assert.deepEqual(
          y.shape,
          shape.filter((_, i) => i !== at),
        );
        const got = await y.readFloats();
        for (let i = 0; i < want.length; i++) assert.ok(Math.abs(got[i]! - want[i]!) < tolerance);
        y.dispose();
      }
      x.dispose();
    });
    it('equals f64 at awkward sizes, long columns and long rows', async () => {
      for (const shape of [[1], [31], [33, 7], [9000], [3, 9001], [4097, 3], [130, 1030], [2, 65, 33]]) {
        // Positive terms: what is judged is the summation, not cancellation.
        for (const op of [ops.sum, ops.mean, (x: Tensor) => ops.sumAxis(x, 0), (x: Tensor) => ops.meanAxis(x, -1)])
          await assertMatchesReference(device, (x) => op(addScalar(x, 1)), [shape], { tolerance: 5e-7 });
      }
    });
    it('a row has the same sum whatever stands beside it', async () => {
      const values = wideArray(40 * 5000);
      const many = Tensor.from(values, [40, 5000], 'f32', device);
      const one = Tensor.from(values.subarray(39 * 5000), [1, 5000], 'f32', device);
      const [a, b] = [ops.sumAxis(many, 1), ops.sumAxis(one, 1)];
      assert.equal((await a.readFloats())[39], (await b.readFloats())[0]);
      for (const t of [many, one, a, b]) t.dispose();
    });
    it('a column has the same sum whatever stands beside it', async () => {
      for (const n of [7, 64, 5000]) {
        const values = wideArray(n * 40);
        const many = Tensor.from(values, [n, 40], 'f32', device);
        const three = Tensor.from(
          values.filter((_, i) => i % 40 < 3),
          [n, 3],
          'f32',
          device,
        );
        const [a, b] = [ops.sumAxis(many, 0), ops.sumAxis(three, 0)];
        assert.deepEqual((await a.readFloats()).slice(0, 3), await b.readFloats());
        for (const t of [many, three, a, b]) t.dispose();
      }
    });
    it('a sum keeps what rounding takes away from its terms', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor does so between chunks only
      for (const n of [50, 1000, 20000])
        for (const inner of [1, 2]) {
          const values = new Float64Array(n * inner).fill(1);
          values.fill(2 ** 25, 0, inner);
          values.fill(-(2 ** 25), (n - 1) * inner);
          const x = Tensor.from(values, [n, inner], 'f32', device);
          const y = ops.sumAxis(x, 0);
          assert.deepEqual([...(await y.readFloats())], new Array<number>(inner).fill(n - 2));
          x.dispose();
          y.dispose();
        }
    });
    it('sums bf16 into bf16 and into f32', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor sums f32 and f64
      const shape = [9, 130, 12];
      for (const [first, count, out] of [
        [0, 1, [130, 12]],
        [1, 1, [9, 12]],
        [0, 2, [12]],
        [1, 2, [9]],
        [0, 3, []],
      ] as const) {
        await assertBf16(device, Op.sumAxes, [shape], [out], { params: [first, count, 1] });
        const values = randomBf16(1, sizeOf(shape));
        const [x16, x32] = [
          Tensor.from(toBf16(values), shape, 'bf16', device),
          Tensor.from(values, shape, 'f32', device),
        ];
        const [wide, same] = [x16, x32].map(
          (x) => run(Op.sumAxes, [x], [{ dtype: 'f32', shape: out }], [first, count, 0])[0]!,
        );
        assert.deepEqual(await wide!.read(), await same!.read());
        for (const t of [x16, x32, wide!, same!]) t.dispose();
      }
    });
    it('one thread and two give the same bits', async function () {
      if (device.kind === 'cuda') this.skip(); // a card has no threads to choose
      const values = randomArray(3, 3 * 5000 * 7);
      const results = await Promise.all(
        [1, 2].map(async (threads) => {
          const own = Device.create('cpu', { isa, threads });
          const x = Tensor.from(values, [3, 5000, 7], 'f32', own);
          const sums = [
            ops.sum(x),
            ops.sumAxis(x, 0),
            ops.sumAxis(x, 1),
            ops.sumAxis(x, 2),
            sumSquares([x]),
            l1Loss(x, scale(x, 2)),
          ];
          const read = await Promise.all(sums.map((y) => y.read()));
          own.close();
          return read;
        }),
      );
      assert.deepEqual(results[0], results[1]);
    });
    it('gradients equal finite differences', async () => {
      await assertGradients(device, ops.sum, [[3, 4]]);
      await assertGradients(device, ops.mean, [[3, 4]], { tolerance: 2e-6 });
      for (const axis of [0, 1, 2]) {
        await assertGradients(device, (x) => ops.sumAxis(x, axis), [[2, 3, 4]]);
        await assertGradients(device, (x) => ops.meanAxis(x, axis), [[2, 3, 4]], { tolerance: 2e-6 });
      }
    });
    it('refuses an axis that is not there', () => {
      const x = Tensor.from([1, 2], [2], 'f32', device);
      assert.throws(() => ops.sumAxis(x, 1), { code: 'INVALID_ARGUMENT' });
      x.dispose();
    });
  });
}
