import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { add, exp, gelu, mul, scale, sigmoid, sub } from '../../lib/ops/elementwise.js';
import { refuseGradient } from '../../lib/ops/record.js';
import { sum } from '../../lib/ops/reduce.js';
import { cat, fill, slice } from '../../lib/ops/shape.js';
import { checkpoint, Tape } from '../../lib/tape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { assertGradients, isaDevice, randomArray } from '../support/numeric.js';

describe('tape', () => {
  let device: Device;
  let one: Tensor;
  beforeEach(() => {
    device = Device.create('cpu', { threads: 2, memoryLimit: 2 ** 24 });
    one = fill([], 1, 'f32', device);
  });
  afterEach(() => device.close());

  const live = (): number => device.stats().liveTensors;
  const random = (seed: number, ...shape: number[]): Tensor =>
    Tensor.from(
      randomArray(
        seed,
        shape.reduce((n, e) => n * e, 1),
      ),
      shape,
      'f32',
      device,
    );
  /** Uses x and w more than once, along paths of different lengths. */
  const tangled = (x: Tensor, w: Tensor): Tensor => {
    const a = gelu(mul(x, w));
    const b = add(a, mul(a, x));
    return cat([sub(exp(scale(b, 0.1)), a), slice(mul(w, b), 0, 0, 1), x], 0);
  };

  it('adds up the gradients of tensors that are used several times', async () => {
    await assertGradients(isaDevice('generic'), tangled, [
      [3, 4],
      [3, 4],
    ]);
  });

  it('gives no gradient where the loss does not depend on a tensor', () => {
    const [x, unused] = [random(1, 3), random(2, 3)];
    const before = live();
    const tape = new Tape().watch(x, unused);
    const loss = tape.run(() => sum(mul(x, x)));
    const grads = tape.backward([{ of: loss, cotangent: one }]);
    assert.deepEqual(grads.get(x)?.shape, [3]);
    assert.equal(grads.get(unused), undefined);
    loss.dispose();
    grads.dispose();
    assert.equal(live(), before);
  });

  it('adds the cotangents of several outputs, the same one given twice included', async () => {
    const x = random(1, 2);
    const tape = new Tape().watch(x);
    const [a, b] = tape.run(() => [sum(x), sum(scale(x, 10))] as const);
    const grads = tape.backward([
      { of: a, cotangent: one },
      { of: b, cotangent: one },
      { of: a, cotangent: one },
    ]);
    assert.deepEqual([...(await grads.get(x)!.read())], [12, 12]);
    for (const t of [a, b, x]) t.dispose();
    grads.dispose();
    assert.equal(live(), 1);
  });

  it('keeps what gradients need, and no more, until it is walked or disposed', () => {
    const x = random(1, 8);
    const record = (tape: Tape): Tensor => tape.run(() => sum(sigmoid(scale(exp(x), 2))));
    const before = live();
    const idle = scope(() => sum(sigmoid(scale(exp(x), 2))));
    assert.equal(live(), before + 1, 'nothing is kept without a tape');
    const walked = new Tape().watch(x);
    const loss = record(walked);
    // exp and sigmoid keep their results; scale and sum keep nothing.
    assert.equal(live(), before + 2 + 2);
    const grads = walked.backward([{ of: loss, cotangent: one }]);
    assert.equal(live(), before + 2 + 1);
    const dropped = new Tape().watch(x);
    const other = record(dropped);
    dropped.dispose();
    assert.equal(live(), before + 2 + 1 + 1);
    for (const t of [idle, loss, other]) t.dispose();
    grads.dispose();
    assert.equal(live(), before);
  });

  it('records nothing that does not lead to a watched tensor', () => {
    const [x, constant] = [random(1, 4), random(2, 4)];
    const before = live();
    const tape = new Tape().watch(x);
    const y = tape.run(() => sub(x, exp(exp(constant))));
    assert.equal(live(), before + 1);
    tape.dispose();
    y.dispose();
  });

  it('a function or a gradient that throws leaves nothing behind', () => {
    const x = random(1, 2 ** 20);
    const before = live();
    const tape = new Tape().watch(x);
    assert.throws(() => {
      tape.run(() => {
        exp(exp(x));
        throw new Error('stop');
      });
    }, /stop/);
    assert.equal(live(), before);
    // x, exp(x) and the sum fit into the limit; the gradients of three further copies do not.
    const full = new Tape().watch(x);
    const loss = full.run(() => sum(exp(x)));
    const ballast = Tensor.empty([2 ** 20], 'f32', device);
    const more = Tensor.empty([2 ** 19], 'f32', device);
    assert.throws(() => full.backward([{ of: loss, cotangent: one }]), { code: 'OUT_OF_MEMORY' });
    for (const t of [loss, ballast, more]) t.dispose();
    assert.equal(live(), before);
  });

  it('is walked once', () => {
    const x = random(1, 2);
    const tape = new Tape().watch(x);
    const loss = tape.run(() => sum(x));
    const walk = () => tape.backward([{ of: loss, cotangent: one }]);
    walk().dispose();
    assert.throws(walk, { code: 'DISPOSED' });
    loss.dispose();
  });

  it('refuses an op without a gradient where one is required, and only there', () => {
    const [x, other] = [random(1, 2), random(2, 2)];
    const draw = (input: Tensor): void => refuseGradient('draw', [null, input]);
    draw(x);
    const tape = new Tape().watch(x);
    tape.run(() => draw(other));
    assert.throws(
      () => tape.run(() => draw(exp(x))),
      (error: Error & { code?: string; cure?: string }) => {
        assert.equal(error.code, 'NOT_DIFFERENTIABLE');
        assert.match(error.message, /'draw'/);
        return Boolean(error.cure);
      },
    );
  });

  describe('checkpoint', () => {
    const block = (w: Tensor) => (x: Tensor) => add(x, gelu(mul(gelu(mul(x, w)), sigmoid(x))));

    it('gives the bits of the plain gradients, keeps less, and leaves nothing behind', async () => {
      const [x, w] = [random(1, 5, 7), random(2, 7)];
      const gradients = async (stacked: (x: Tensor) => Tensor): Promise<{ bits: unknown; kept: number }> => {
        const before = live();
        const tape = new Tape().watch(x, w);
        const loss = tape.run(() => sum(stacked(x)));
        const kept = live() - before;
        const grads = tape.backward([{ of: loss, cotangent: one }]);
        const bits = [await grads.get(x)!.read(), await grads.get(w)!.read()];
        loss.dispose();
        grads.dispose();
        assert.equal(live(), before);
        return { bits, kept };
      };
      const plain = await gradients((t) => block(w)(block(w)(t)));
      const recomputed = await gradients((t) => {
        const once = checkpoint(block(w), [t], [w]);
        return checkpoint(block(w), [once], [w]);
      });
      assert.deepEqual(recomputed.bits, plain.bits);
      assert.ok(recomputed.kept < plain.kept, `${recomputed.kept} tensors kept, ${plain.kept} without`);
    });

    it('equals finite differences, an input given twice included', async () => {
      const twice = (x: Tensor): Tensor => checkpoint((a, b) => mul(exp(scale(a, 0.5)), b), [x, x], []);
      await assertGradients(isaDevice('generic'), twice, [[3, 2]]);
    });

    it('is the plain function outside a tape', async () => {
      const [x, w] = [random(1, 5, 7), random(2, 7)];
      const [a, b] = [scope(() => checkpoint(block(w), [x], [w])), scope(() => block(w)(x))];
      assert.deepEqual(await a.read(), await b.read());
      for (const t of [a, b, x, w]) t.dispose();
      assert.equal(live(), 1);
    });
  });
});
