import assert from 'node:assert/strict';
import { embedding } from '../../lib/ops/embedding.js';
import { Op } from '../../lib/ops/generated.js';
import { run, shaped } from '../../lib/ops/run.js';
import { cat, slice } from '../../lib/ops/shape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { fromBf16, randomBf16, toBf16 } from '../support/bf16.js';
import { assertGradients, assertMatchesReference, isaDevices, random, relativeError } from '../support/numeric.js';

for (const [isa, device] of isaDevices()) {
  describe(`embedding on ${isa}`, () => {
    const ids = (values: number[], shape: number[], on = device): Tensor => Tensor.from(values, shape, 'i32', on);

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
        await assertMatchesReference(device, (t) => embedding(t, ids(picked, [7], t.device)), [[5, c]]);
      await assertGradients(device, (t) => embedding(t, ids(picked, [7], t.device)), [[5, 3]]);
      await assertGradients(device, (t) => embedding(t, ids([1, 1, 0, 1], [2, 2], t.device)), [[3, 130]]);
    });
    it('long lists of ids with many occurrences add up as f64 does', async () => {
      // More occurrences of an id than are added up together, ids that never occur, and rows with a ragged end.
      for (const c of [4, 37, 260]) {
        const picked = Array.from({ length: 5000 }, (_, i) => [3, 3, 3, 0, 1, 6, 5][(i * i + 3 * i) % 7]!);
        const shape = [picked.length, c];
        await assertMatchesReference(
          device,
          (gy) => run(Op.embeddingBackward, [gy, ids(picked, [picked.length], gy.device)], [shaped(gy, [8, c])]),
          [shape],
        );
      }
    });
    it('a row adds up the same whatever other ids stand between', async () => {
      const [gy, spread] = [random(device, 1, [3000, 8]), random(device, 1, [3000, 8])];
      const wide = scope(() =>
        cat([slice(spread, 0, 0, 100), random(device, 2, [2777, 8]), slice(spread, 0, 100, 3000)], 0),
      );
      const dense = ids(new Array<number>(3000).fill(1), [3000]);
      const among = ids(
        Array.from({ length: 5777 }, (_, i) => (i < 100 || i >= 2877 ? 1 : 0)),
        [5777],
      );
      const [a] = run(Op.embeddingBackward, [gy, dense], [shaped(gy, [2, 8])]);
      const [b] = run(Op.embeddingBackward, [wide, among], [shaped(gy, [2, 8])]);
      assert.deepEqual((await a!.readFloats()).slice(8), (await b!.readFloats()).slice(8));
      for (const t of [gy, spread, wide, dense, among, a!, b!]) t.dispose();
    });
    it('takes a bf16 table, into bf16 and into f32, and bf16 gradients', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor has tables in f32 and f64
      for (const c of [5, 24]) {
        const bits = toBf16(randomBf16(1, 6 * c));
        const [table, at] = [Tensor.from(bits, [6, c], 'bf16', device), ids([5, 0, 2], [3])];
        const rows = [5, 0, 2].map((row) => bits.subarray(row * c, (row + 1) * c));
        for (const dtype of ['bf16', 'f32'] as const) {
          const [y] = run(Op.embedding, [table, at], [{ dtype, shape: [3, c] }]);
          assert.deepEqual(
            Array.from(await y!.readFloats()),
            rows.flatMap((row) => Array.from(fromBf16(row))),
          );
          y!.dispose();
        }
        const gy = Tensor.from(bits, [6, c], 'bf16', device);
        const picked = ids([1, 0, 1, 1, 3, 0], [6]);
        const [g] = run(Op.embeddingBackward, [gy, picked], [{ dtype: 'f32', shape: [4, c] }]);
        const want = new Float64Array(4 * c);
        for (const [i, id] of [1, 0, 1, 1, 3, 0].entries())
          for (let j = 0; j < c; j++) want[id * c + j]! += fromBf16(bits)[i * c + j]!;
        assert.ok(relativeError(await g!.readFloats(), want) < 1e-7);
        for (const t of [table, at, gy, picked, g!]) t.dispose();
      }
    });
    it('an id outside the table rejects the read, names op and shapes, and the device goes on', async () => {
      const table = random(device, 1, [3, 4]);
      for (const bad of [-1, 3]) {
        const y = scope(() => embedding(table, ids([0, bad], [2])));
        await assert.rejects(y.read(), (error: Error & { code?: string }) => {
          assert.equal(error.code, 'INVALID_ARGUMENT');
          // A card reports it when the request is read, and no longer knows the op.
          if (device.kind === 'cpu') assert.match(error.message, /embedding\(f32\[3,4\], i32\[2\]\)/);
          return true;
        });
        y.dispose();
      }
      const y = scope(() => embedding(table, ids([2], [1])));
      assert.deepEqual(await y.read(), (await table.read()).slice(8));
      y.dispose();
      table.dispose();
    });
    it('an id outside the table of a request that was given up fails no later one', async () => {
      const table = random(device, 1, [3, 4]);
      const givenUp = device.createToken();
      const [bad, y] = device.withToken(givenUp, () => {
        const bad = ids([9], [1]);
        return [bad, embedding(table, bad)];
      });
      await device.sync(); // it has run
      givenUp.cancel();
      // A card keeps what it found in one of about a thousand words, by the request's number.
      for (let i = 0; i < 1100; i++) {
        const token = device.createToken();
        const [at, row] = device.withToken(token, () => {
          const at = ids([2], [1]);
          return [at, embedding(table, at)];
        });
        await device.withToken(token, () => row.read());
        for (const t of [at, row]) t.dispose();
        token.release();
      }
      for (const t of [bad, y, table]) t.dispose();
      givenUp.release();
    });
    it('refuses ids of another type', () => {
      const table = random(device, 1, [3, 4]);
      assert.throws(() => embedding(table, table), { code: 'INVALID_SHAPE' });
      table.dispose();
    });
  });
}
