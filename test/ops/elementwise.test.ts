import * as ops from '../../lib/ops/elementwise.js';
import { assertGradients, assertMatchesReference, isaDevices } from '../support/numeric.js';

const maps = { gelu: ops.gelu, silu: ops.silu } as const;
const binaries = { add: ops.add, sub: ops.sub, mul: ops.mul } as const;
const broadcasts: [number[], number[]][] = [
  [[7], [7]],
  [
    [3, 5, 33],
    [3, 5, 33],
  ],
  [[2, 31, 17], [17]],
  [
    [2, 31, 17],
    [2, 1, 17],
  ],
  [
    [4, 1, 3],
    [5, 1],
  ],
  [[1], [3, 2]],
];

for (const [isa, device] of isaDevices()) {
  describe(`elementwise on ${isa}`, () => {
    for (const [name, op] of Object.entries(maps)) {
      it(`${name} equals f64 at awkward sizes and its gradient equals finite differences`, async () => {
        for (const n of [1, 31, 33, 16385]) await assertMatchesReference(device, op, [[n]], { scale: 6 });
        await assertGradients(device, op, [[3, 11]], { scale: 4 });
      });
    }
    for (const [name, op] of Object.entries(binaries)) {
      it(`${name} broadcasts both ways, with gradients`, async () => {
        for (const [a, b] of broadcasts) {
          await assertMatchesReference(device, op, [a, b]);
          await assertMatchesReference(device, op, [b, a]);
        }
        await assertGradients(device, op, [
          [2, 3, 5],
          [3, 1],
        ]);
      });
    }
    it('scale multiplies and passes the factor back', async () => {
      await assertMatchesReference(device, (x) => ops.scale(x, -0.75), [[5, 7]]);
      await assertGradients(device, (x) => ops.scale(x, -0.75), [[5, 7]]);
    });
    it('sumTo adds up what broadcasting repeated', async () => {
      await assertMatchesReference(device, (x) => ops.sumTo(x, [1, 31, 1]), [[4, 31, 300]], { tolerance: 5e-6 });
      await assertMatchesReference(device, (x) => ops.sumTo(x, [300]), [[4, 31, 300]], { tolerance: 5e-6 });
      await assertMatchesReference(device, (x) => ops.sumTo(x, []), [[4, 31, 30]], { tolerance: 5e-5 });
      await assertGradients(device, (x) => ops.sumTo(x, [3, 1]), [[2, 3, 5]]);
    });
  });
}
