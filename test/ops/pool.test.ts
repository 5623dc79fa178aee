import assert from 'node:assert/strict';
import { leakyRelu, relu } from '../../lib/ops/elementwise.js';
import { maxPool2x2 } from '../../lib/ops/pool.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { assertClean, assertGradients, assertMatchesReference, isaDevices, randomArray } from '../support/numeric.js';
import { maxPool, pictures } from '../support/plain_convnet.js';

for (const [isa, device] of isaDevices()) {
  describe(`pooling and rectifiers on ${isa}`, () => {
    for (const shape of [
      [1, 2, 2, 1],
      [2, 5, 7, 3],
      [1, 6, 4, 33],
    ])
      it(`max_pool of [${shape.join(', ')}] equals the maxima of its windows, and its gradient finite differences`, async () => {
        const live = device.stats().liveTensors;
        const values = randomArray(
          3,
          shape.reduce((a, b) => a * b),
        );
        const y = scope(() => maxPool2x2(Tensor.from(values, shape, 'f32', device)));
        const want = pictures(values, shape).flatMap((p) => [...(maxPool(p).data as Float64Array)]);
        assert.deepEqual(y.shape, [shape[0], shape[1]! >> 1, shape[2]! >> 1, shape[3]]);
        // One rounding of a difference of two numbers below 1, and one of the sum.
        for (const [i, v] of (await y.readFloats()).entries()) assert.ok(Math.abs(v - want[i]!) <= 2 ** -23, `${v}`);
        y.dispose();
        await assertClean(device, live);
        await assertGradients(device, maxPool2x2, [shape]);
      });

    it('relu and leaky relu equal their formulas, with gradients', async () => {
      const values = randomArray(4, 33);
      const read = async (fn: (x: Tensor) => Tensor): Promise<number[]> => {
        const y = scope(() => fn(Tensor.from(values, [33], 'f32', device)));
        const out = [...(await y.readFloats())];
        y.dispose();
        return out;
      };
      assert.deepEqual(
        await read(relu),
        [...values].map((v) => Math.max(v, 0)),
      );
      for (const [i, v] of (await read((x) => leakyRelu(x, 0.2))).entries()) {
        const want = values[i]! * (values[i]! > 0 ? 1 : 0.2);
        assert.ok(Math.abs(v - want) <= 2 ** -23 * Math.abs(want), `${v} ${want}`);
      }
      const leaky = (x: Tensor): Tensor => leakyRelu(x, 0.2);
      await assertMatchesReference(device, leaky, [[31]]);
      for (const fn of [relu, leaky]) await assertGradients(device, fn, [[33]]);
    });
  });
}
