import assert from 'node:assert/strict';
import { sub } from '../../lib/ops/elementwise.js';
import * as ops from '../../lib/ops/optim.js';
import { Tape } from '../../lib/tape.js';
import { Tensor } from '../../lib/tensor.js';
import { assertClean, isaDevices, randomArray, relativeError } from '../support/numeric.js';

const settings = { lr: 1e-2, beta1: 0.9, beta2: 0.97, eps: 1e-8, weightDecay: 0.05 };

/** AdamW (Loshchilov and Hutter, algorithm 2) in doubles, written from the formulas. */
function adamwReference(p: Float64Array, grads: Float64Array[], gradScale: number): Float64Array {
  const [x, m, v] = [p.slice(), new Float64Array(p.length), new Float64Array(p.length)];
  const { lr, beta1, beta2, eps, weightDecay } = settings;
  for (const [t, g] of grads.entries())
    for (let i = 0; i < x.length; i++) {
      const gi = g[i]! * gradScale;
      m[i] = beta1 * m[i]! + (1 - beta1) * gi;
      v[i] = beta2 * v[i]! + (1 - beta2) * gi * gi;
      const mHat = m[i]! / (1 - beta1 ** (t + 1));
      const vHat = v[i]! / (1 - beta2 ** (t + 1));
      x[i]! -= lr * (mHat / (Math.sqrt(vHat) + eps) + weightDecay * x[i]!);
    }
  return x;
}

for (const [isa, device] of isaDevices()) {
  const f32 = (values: Float64Array | number[], shape: number[]): Tensor => Tensor.from(values, shape, 'f32', device);

  describe(`optim on ${isa}`, () => {
    it('adamw equals its formulas over several steps, with and without a gradient factor', async () => {
      const live = device.stats().liveTensors;
      for (const n of [1, 31, 33, 16400])
        for (const gradScale of [1, 0.25]) {
          const start = randomArray(1, n);
          const grads = [randomArray(2, n), randomArray(3, n, 1e-3), randomArray(4, n)];
          const [param, m, v] = [f32(start, [n]), f32(new Float64Array(n), [n]), f32(new Float64Array(n), [n])];
          const factor = gradScale === 1 ? null : f32([gradScale], []);
          for (const [i, values] of grads.entries()) {
            const grad = f32(values, [n]);
            ops.adamw_(param, grad, m, v, { ...settings, step: i + 1, gradScale: factor });
            grad.dispose();
          }
          const error = relativeError(await param.readFloats(), adamwReference(start, grads, gradScale));
          assert.ok(error < 1e-6, `${n}: ${error}`);
          for (const t of [param, m, v, factor]) t?.dispose();
        }
      await assertClean(device, live);
    });
    it('ema keeps its digits close to decay 1', async () => {
      const [shadow, param] = [f32([1, 0, -4], [3]), f32([3, 1, -4], [3])];
      for (let i = 0; i < 100; i++) ops.ema_(shadow, param, 0.9999);
      const left = 0.9999 ** 100;
      const got = await shadow.readFloats();
      for (const [i, want] of [3 - 2 * left, 1 - left, -4].entries())
        assert.ok(Math.abs(got[i]! - want) < 3e-6 * Math.max(1, Math.abs(want)), `${got[i]} ${want}`);
      shadow.dispose();
      param.dispose();
    });
    it('sumSquares adds up in double', async () => {
      for (const n of [1, 17, 4097, 300000]) {
        const values = randomArray(n, n);
        const x = f32(values, [n]);
        const y = ops.sumSquares(x);
        const want = values.reduce((s, e) => s + e * e, 0);
        const [got] = await y.readFloats();
        assert.ok(Math.abs(got! - want) <= 1.2e-7 * want, `${n}: ${got} ${want}`);
        x.dispose();
        y.dispose();
      }
    });
    it('sumSquares shows what is not finite', async () => {
      for (const odd of [Number.POSITIVE_INFINITY, Number.NaN]) {
        const x = f32([1, odd, 2], [3]);
        const y = ops.sumSquares(x);
        assert.equal((await y.readFloats())[0], odd);
        x.dispose();
        y.dispose();
      }
    });
    it('clipFactor shrinks what is too long, leaves the rest, and shows a NaN', async () => {
      const parts = [f32([9], []), f32([16], [])];
      const [long, short] = [ops.clipFactor(parts, 2.5), ops.clipFactor(parts, 10)];
      assert.equal((await long.norm.readFloats())[0], 5);
      assert.ok(Math.abs((await long.factor.readFloats())[0]! - 0.5) < 1e-6);
      assert.equal((await short.factor.readFloats())[0], 1);
      const nan = f32([Number.NaN], []);
      const broken = ops.clipFactor([parts[0]!, nan], 1);
      assert.ok(Number.isNaN((await broken.factor.readFloats())[0]));
      for (const t of [...parts, nan, ...[long, short, broken].flatMap((c) => [c.norm, c.factor])]) t.dispose();
    });
    it('refuses senseless settings and the inside of a tape', () => {
      const x = f32([1, 2], [2]);
      const y = f32([1, 2, 3], [3]);
      const step = { ...settings, step: 1 };
      assert.throws(() => ops.adamw_(x, y, x, x, step), { code: 'INVALID_SHAPE' });
      assert.throws(() => ops.adamw_(x, x, x, x, { ...step, step: 0 }), { code: 'INVALID_ARGUMENT' });
      assert.throws(() => ops.adamw_(x, x, x, x, { ...step, lr: Number.NaN }), { code: 'INVALID_ARGUMENT' });
      assert.throws(() => ops.ema_(x, x, 1.5), { code: 'INVALID_ARGUMENT' });
      assert.throws(() => ops.clipFactor([], 1), { code: 'INVALID_ARGUMENT' });
      assert.throws(() => ops.clipFactor([x], 0), { code: 'INVALID_ARGUMENT' });
      const tape = new Tape().watch(x);
      assert.throws(() => tape.run(() => ops.sumSquares(sub(x, x))), { code: 'NOT_DIFFERENTIABLE' });
      tape.dispose();
      x.dispose();
      y.dispose();
    });
  });
}
