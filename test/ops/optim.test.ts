import assert from 'node:assert/strict';
import { adamw_, clipFactor, ema_, sumSquares } from '../../lib/ops/optim.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { assertClean, assertMatchesReference, isaDevices, randomArray, relativeError } from '../support/numeric.js';

const n = 16397;
const rates = { lr: 0.01, beta1: 0.9, beta2: 0.97, eps: 1e-8, weightDecay: 0.1 };

/** AdamW as its paper writes it, in double. */
function reference(steps: number, clip: number): { w: Float64Array; m: Float64Array; v: Float64Array } {
  const [w, m, v] = [randomArray(1, n), new Float64Array(n), new Float64Array(n)];
  for (let step = 1; step <= steps; step++) {
    const g = randomArray(step + 1, n).map((x) => x * clip);
    for (let i = 0; i < n; i++) {
      m[i] = rates.beta1 * m[i]! + (1 - rates.beta1) * g[i]!;
      v[i] = rates.beta2 * v[i]! + (1 - rates.beta2) * g[i]! ** 2;
      const corrected = Math.sqrt(v[i]! / (1 - rates.beta2 ** step)) + rates.eps;
      w[i] = w[i]! * (1 - rates.lr * rates.weightDecay) - (rates.lr * (m[i]! / (1 - rates.beta1 ** step))) / corrected;
    }
  }
  return { w, m, v };
}

for (const [isa, device] of isaDevices()) {
  describe(`optim on ${isa}`, () => {
    for (const dtype of ['f32', 'f64'] as const) {
      it(`three AdamW steps equal the paper's formula (${dtype})`, async () => {
        const live = device.stats().liveTensors;
        const clip = Tensor.from([0.5], [], dtype, device);
        const [w, m, v] = [randomArray(1, n), new Float64Array(n), new Float64Array(n)].map((x) =>
          Tensor.from(x, [n], dtype, device),
        ) as [Tensor, Tensor, Tensor];
        for (let step = 1; step <= 3; step++)
          scope(() => {
            const grad = Tensor.from(randomArray(step + 1, n), [n], dtype, device);
            adamw_(w, grad, m, v, { ...rates, step, gradScale: clip });
          });
        const want = reference(3, 0.5);
        // The rates themselves are rounded to f32 on their way into the command.
        assert.ok(relativeError(await w.readFloats(), want.w) < 1e-6);
        assert.ok(relativeError(await m.readFloats(), want.m) < 1e-6);
        assert.ok(relativeError(await v.readFloats(), want.v) < 2e-6);
        for (const t of [clip, w, m, v]) t.dispose();
        await assertClean(device, live);
      });
    }

    it('the average moves by 1 - decay of the difference', async () => {
      const live = device.stats().liveTensors;
      const [average, w] = [1, 2].map((seed) => Tensor.from(randomArray(seed, 33), [33], 'f64', device));
      ema_(average!, w!, 0.75);
      const [before, target] = [randomArray(1, 33), randomArray(2, 33)];
      assert.ok(
        relativeError(
          await average!.readFloats(),
          before.map((x, i) => 0.75 * x + 0.25 * target[i]!),
        ) < 1e-12,
      );
      average!.dispose();
      w!.dispose();
      await assertClean(device, live);
    });

    it('the clip factor brings the global norm down and never up', async () => {
      await assertMatchesReference(device, (x) => sumSquares(x), [[n]], { tolerance: 1e-6 });
      for (const maxNorm of [0.5, 1e9]) {
        const got = scope(() => {
          const parts = [3, 5].map((seed) => Tensor.from(randomArray(seed, 31), [31], 'f64', device));
          return clipFactor(parts.map(sumSquares), maxNorm);
        });
        const norm = Math.hypot(...randomArray(3, 31), ...randomArray(5, 31));
        assert.ok(Math.abs((await got.norm.readFloats())[0]! / norm - 1) < 1e-12);
        const factor = (await got.factor.readFloats())[0]!;
        assert.ok(Math.abs(factor - Math.min(1, maxNorm / (norm + 1e-6))) < 1e-12);
        got.norm.dispose();
        got.factor.dispose();
      }
    });
  });
}
