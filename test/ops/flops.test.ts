/** What the benchmarks call a FLOP: counted from commands, compared with the arithmetic of the textbook. */
import assert from 'node:assert/strict';
import { filled, summarize } from '../../benchmarks/harness.js';
import { Device } from '../../lib/device.js';
import { type ConvOptions, conv2d, packConv, packUpsampleConv, upsampleConv2d } from '../../lib/ops/conv.js';
import { add } from '../../lib/ops/elementwise.js';
import { countFlops } from '../../lib/ops/flops.js';
import { linear, packLinear } from '../../lib/ops/linear.js';
import { Tape } from '../../lib/tape.js';
import { scope, type Tensor } from '../../lib/tensor.js';

describe('counted arithmetic', () => {
  let device: Device;
  before(() => {
    device = Device.create('cpu', { threads: 1 });
  });
  after(() => device.close());

  const count = (fn: () => Tensor): Promise<number> =>
    countFlops(device, () => {
      scope(fn).dispose();
    });

  it('knows every form of a product', async () => {
    const [x, w] = [filled(device, [2, 3, 7]), filled(device, [5, 7])];
    const flops = 2 * (2 * 3) * 5 * 7;
    assert.equal(await count(() => linear(x, w)), flops);
    assert.equal(await count(() => linear(x, packLinear(w))), flops);
    assert.equal(await count(() => add(x, x)), 0);
  });

  it('knows every form of a convolution', async () => {
    const [x, w] = [filled(device, [2, 8, 6, 3]), filled(device, [5, 3, 3, 3])];
    const down: ConvOptions = { stride: 2, padding: { top: 0, left: 0, bottom: 1, right: 1 } };
    const flops = 2 * (2 * 4 * 3) * 5 * 3 * 9;
    assert.equal(await count(() => conv2d(x, w, null, down)), flops);
    assert.equal(await count(() => conv2d(x, packConv(w), null, down)), flops);
    // Four 2 x 2 convolutions stand for nearest x2 and one 3 x 3 convolution.
    const doubled = 2 * (2 * 16 * 12) * 5 * 3 * 4;
    assert.equal(await count(() => upsampleConv2d(x, w)), doubled);
    assert.equal(await count(() => upsampleConv2d(x, packUpsampleConv(w))), doubled);
  });

  it('counts a gradient twice: for the input and for the weight', async () => {
    const [rows, w, x, k] = [
      [4, 7],
      [5, 7],
      [1, 4, 6, 3],
      [2, 3, 3, 3],
    ].map((s) => filled(device, s)) as Tensor[];
    for (const fn of [
      () => linear(rows!, w!),
      () => conv2d(x!, k!, null, { padding: 1 }),
      () => upsampleConv2d(x!, k!),
    ]) {
      const tape = new Tape().watch(rows!, w!, x!, k!);
      let y = x!;
      const forward = await countFlops(device, () => {
        y = tape.run(fn);
      });
      const backward = await countFlops(device, () => tape.backward([{ of: y, cotangent: y }]).dispose());
      y.dispose();
      assert.ok(forward > 0);
      assert.equal(backward, 2 * forward);
    }
  });

  it('leaves the device as it was, also when the work fails', async () => {
    await assert.rejects(
      countFlops(device, () => Promise.reject(new Error('stop'))),
      /stop/,
    );
    assert.ok(!Object.hasOwn(device, 'submit'));
  });
});

describe('timings', () => {
  it('are summed up by their order, not by their values', () => {
    const seconds = Array.from({ length: 11 }, (_, i) => (i === 10 ? 1000 : i));
    assert.deepEqual(summarize(seconds), { best: 0, median: 5, p10: 1, p90: 9 });
    assert.deepEqual(summarize([3]), { best: 3, median: 3, p10: 3, p90: 3 });
  });
});
