import assert from 'node:assert/strict';
import { embedding } from '../../lib/ops/embedding.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { assertGradients, assertMatchesReference, isaDevices, random } from '../support/numeric.js';

for (const [isa, device] of isaDevices()) {
  describe(`embedding on ${isa}`, () => {
    const ids = (values: number[], shape: number[]): Tensor => Tensor.from(values, shape, 'i32', device);

    it('picks rows by id', async () => {
      const table = Tensor.from([0, 1, 10, 11, 20, 21], [3, 2], 'f32', device);
      const y = scope(() => embedding(table, ids([2, 0, 2, 1], [2, 2])));
      assert.deepEqual(y.shape, [2, 2, 2]);
      assert.deepEqual([...(await y.readFloats())], [20, 21, 0, 1, 20, 21, 10, 11]);
      table.dispose();
      y.dispose();
    });
    it('equals f64 for wide and narrow rows; repeated ids add up in the gradient', async () => {
      const picked = [4, 0, 4, 4, 2, 0, 1];
      for (const c of [1, 33, 300])
        await assertMatchesReference(device, (t) => embedding(t, ids(picked, [7])), [[5, c]]);
      await assertGradients(device, (t) => embedding(t, ids(picked, [7])), [[5, 3]]);
      await assertGradients(device, (t) => embedding(t, ids([1, 1, 0, 1], [2, 2])), [[3, 130]]);
    });
    it('an id outside the table rejects the read, names op and shapes, and the device goes on', async () => {
      const table = random(device, 1, [3, 4]);
      for (const bad of [-1, 3]) {
        const y = scope(() => embedding(table, ids([0, bad], [2])));
        await assert.rejects(y.read(), (error: Error & { code?: string }) => {
          assert.equal(error.code, 'INVALID_ARGUMENT');
          assert.match(error.message, /embedding\(f32\[3,4\], i32\[2\]\)/);
          return true;
        });
        y.dispose();
      }
      const y = scope(() => embedding(table, ids([2], [1])));
      assert.deepEqual(await y.read(), (await table.read()).slice(8));
      y.dispose();
      table.dispose();
    });
    it('refuses ids of another type', () => {
      const table = random(device, 1, [3, 4]);
      assert.throws(() => embedding(table, table), { code: 'INVALID_SHAPE' });
      table.dispose();
    });
  });
}
