import assert from 'node:assert/strict';
import { abs, square, sub } from '../../lib/ops/elementwise.js';
import { Op } from '../../lib/ops/generated.js';
import { l1Loss, l2Loss } from '../../lib/ops/loss.js';
import { mean } from '../../lib/ops/reduce.js';
import { Tensor } from '../../lib/tensor.js';
import { assertMixed16, measure, stored } from '../support/bf16.js';
import { assertGradients, assertMatchesReference, isaDevices, referenceOf } from '../support/numeric.js';

const losses = [
  ['l1', l1Loss, abs],
  ['l2', l2Loss, square],
] as const;

for (const [isa, device] of isaDevices()) {
  describe(`loss on ${isa}`, () => {
    for (const [name, loss, term] of losses) {
      it(`${name} equals its composed definition and f64, with both gradients`, async () => {
        for (const shape of [[1], [33, 7], [3, 5000]]) {
          await assertMatchesReference(device, loss, [shape, shape], { tolerance: 2e-7 });
          const gap = (x: Tensor, y: Tensor): Tensor => sub(loss(x, y), mean(term(sub(x, y))));
          const [x, y] = [1, 2].map((seed) =>
            Tensor.from(
              Array.from({ length: 35 }, (_, i) => Math.sin(seed * i)),
              [5, 7],
              'f64',
              referenceOf(device),
            ),
          );
          const difference = gap(x!, y!);
          assert.ok(Math.abs((await difference.readFloats())[0]!) < 1e-14);
          for (const t of [x!, y!, difference]) t.dispose();
        }
        await assertGradients(device, loss, [
          [3, 7],
          [3, 7],
        ]);
      });
    }
    it('bf16 is computed in float; losses are f32', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor computes in f32 and f64
      for (const n of [1, 33, 30001]) {
        for (const op of [Op.l1Loss, Op.l2Loss]) await assertMixed16(device, op, [stored(n), stored(n)], [measure()]);
        for (const op of [Op.l1LossBackward, Op.l2LossBackward])
          await assertMixed16(device, op, [measure(), stored(n), stored(n)], [stored(n)]);
      }
    });
    it('l1 has no gradient where both are equal; shapes must agree', async () => {
      const x = Tensor.from([1, 2], [2], 'f32', device);
      const y = Tensor.from([1, 2, 3], [3], 'f32', device);
      assert.throws(() => l1Loss(x, y), { code: 'INVALID_SHAPE' });
      const zero = l1Loss(x, x);
      assert.equal((await zero.readFloats())[0], 0);
      for (const t of [x, y, zero]) t.dispose();
    });
  });
}
