import assert from 'node:assert/strict';
import type { Device } from '../../lib/device.js';
import { bitCrossEntropy, bitLoss, foldBitHead } from '../../lib/ops/bit_loss.js';
import { packBits } from '../../lib/ops/bits.js';
import { Op } from '../../lib/ops/generated.js';
import { statistic } from '../../lib/ops/run.js';
import { Tape } from '../../lib/tape.js';
import { Tensor } from '../../lib/tensor.js';
import { assertBf16, assertMixed16, measure, stored } from '../support/bf16.js';
import {
  assertClean,
  assertGradients,
  assertMatchesReference,
  isaDevices,
  random,
  randomArray,
  randomLabels,
} from '../support/numeric.js';

const labels = (device: Device, m: number, d: number): Tensor =>
  Tensor.from(
    Uint8Array.from(randomArray(77, m * d), (v) => Number(v > 0)),
    [m, d],
    'u8',
    device,
  );
const packed = (device: Device, m: number, d: number): Tensor => randomLabels(77, [m, d], device);

/** The definition over both logits: softmax cross entropy with smoothed one-hot targets. */
function reference(logits: ArrayLike<number>, bits: ArrayLike<number>, d: number, smoothing: number): number[] {
  const perToken = new Array<number>(bits.length / d).fill(0);
  for (let i = 0; i < bits.length; i++) {
    const [l0, l1] = [logits[2 * i]!, logits[2 * i + 1]!];
    const top = Math.max(l0, l1);
    const norm = top + Math.log(Math.exp(l0 - top) + Math.exp(l1 - top));
    const right = norm - (bits[i] ? l1 : l0);
    const even = norm - (l0 + l1) / 2;
    perToken[Math.floor(i / d)]! += (1 - smoothing) * right + smoothing * even;
  }
  return perToken;
}

for (const [isa, device] of isaDevices()) {
  describe(`bit loss on ${isa}`, () => {
    for (const [m, c, d] of [
      [1, 1, 1],
      [3, 5, 14],
      [66, 31, 16],
      [130, 17, 33],
    ] as const) {
      it(`matches the definition over both logits, ${m} tokens of ${d} bits`, async () => {
        const live = device.stats().liveTensors;
        const [x, w, b] = [random(device, 1, [m, c]), random(device, 2, [2 * d, c]), random(device, 3, [2 * d])];
        const bits = labels(device, m, d);
        const byBytes = packBits(bits);
        const [xs, ws, bs, ys] = [await x.read(), await w.read(), await b.read(), await bits.read()];
        const logits = new Float64Array(m * 2 * d);
        for (let i = 0; i < m; i++)
          for (let j = 0; j < 2 * d; j++) {
            let sum = bs[j]!;
            for (let k = 0; k < c; k++) sum += xs[i * c + k]! * ws[j * c + k]!;
            logits[i * 2 * d + j] = sum;
          }
        for (const [reduction, labelSmoothing] of [
          ['mean', 0],
          ['sum', 0.1],
        ] as const) {
          const { loss, perToken, correct } = bitCrossEntropy(x, w, b, byBytes, null, { reduction, labelSmoothing });
          const divisor = reduction === 'mean' ? d : 1;
          const want = reference(logits, ys, d, labelSmoothing).map((v) => v / divisor);
          const [got, hits, total] = [await perToken.read(), await correct.read(), (await loss.read())[0]!];
          let mean = 0;
          for (let i = 0; i < m; i++) {
            assert.ok(Math.abs(got[i]! - want[i]!) < 1e-5 * Math.max(1, want[i]!), `${got[i]} and ${want[i]}`);
            let right = 0;
            for (let j = 0; j < d; j++)
              right += Number(Number(logits[2 * (i * d + j) + 1]! > logits[2 * (i * d + j)]!) === ys[i * d + j]);
            assert.equal(hits[i], right);
            mean += want[i]! / m;
          }
          assert.ok(Math.abs(total - mean) < 1e-5 * mean);
          for (const t of [loss, perToken, correct]) t.dispose();
        }
        for (const t of [x, w, b, bits, byBytes]) t.dispose();
        await assertClean(device, live);
      });
    }

    it('has the gradients of finite differences, weighted and smoothed', async () => {
      const f = (x: Tensor, w: Tensor, b: Tensor) => {
        const weight = random(x.device, 9, [3], statistic(x));
        return bitCrossEntropy(x, w, b, packed(x.device, 6, 5), weight, { labelSmoothing: 0.2 }).loss;
      };
      await assertGradients(device, f, [[2, 3, 7], [10, 7], [10]]);
      const sum = (gap: Tensor) => bitLoss(gap, packed(gap.device, 6, 5), null, { reduction: 'sum' }).loss;
      await assertGradients(device, sum, [[6, 5]]);
    });

    it('f32 and f64 agree', async () => {
      for (const [m, d] of [
        [5, 31],
        [200, 32],
      ] as const) {
        const f = (gap: Tensor) => {
          const { loss, perToken } = bitLoss(gap, packed(gap.device, m, d), null);
          return [loss, perToken];
        };
        await assertMatchesReference(device, f, [[m, d]], { scale: 20 });
      }
      await assertMatchesReference(device, foldBitHead, [[34, 3]]);
      await assertMatchesReference(device, foldBitHead, [[66]]);
    });

    it('bf16 is computed in float; the loss and its metrics are f32', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor computes in f32 and f64
      for (const [m, d] of [
        [1, 1],
        [66, 31],
        [130, 40],
      ] as const) {
        const outputs = [measure(), stored(m, d), measure([m]), measure([m])];
        const options = { params: [1 / d, 0.1], scale: 6 };
        const inputs = [stored(m, d), (on: Device) => packed(on, m, d), measure([m])];
        await assertMixed16(device, Op.bitLoss, inputs, outputs, options);
        await assertBf16(device, Op.foldPairs, [[2 * d, m]], [[d, m]]);
        await assertBf16(device, Op.foldPairsBackward, [[d, m]], [[2 * d, m]]);
      }
    });

    it('reads no bit behind those of a token', async () => {
      const gap = random(device, 4, [3, 11]);
      const losses = [0, 0b11111].map((rest) => {
        const bytes = Uint8Array.from([0xa5, 0x60, 0x0f, 0xc0, 0x3c, 0x20], (byte, i) => byte | (i % 2 ? rest : 0));
        using labels = Tensor.from(bytes, [3, 2], 'u8', device);
        const { loss, perToken, correct } = bitLoss(gap, labels, null);
        return [loss, perToken, correct];
      });
      const [none, ones] = await Promise.all(losses.map((of) => Promise.all(of.map((t) => t.read()))));
      assert.deepEqual(ones, none);
      for (const t of [gap, ...losses.flat()]) t.dispose();
    });

    it('stays finite for enormous logits', async () => {
      const gap = Tensor.from([1e30, -1e30, 200, -200], [2, 2], 'f32', device);
      const bits = Tensor.from(Uint8Array.of(0b11000000, 0), [2, 1], 'u8', device);
      const tape = new Tape().watch(gap);
      const { loss, perToken, correct } = tape.run(() => bitLoss(gap, bits, null, { reduction: 'sum' }));
      const one = Tensor.from([1], [], 'f32', device);
      const grads = tape.backward([{ of: loss, cotangent: one }]);
      assert.deepEqual([...(await perToken.read())], [Math.fround(1e30), 200]);
      assert.deepEqual([...(await correct.read())], [1, 1]);
      assert.deepEqual([...(await grads.get(gap)!.read())].map(Math.abs), [0, 0.5, 0.5, 0]);
      grads.dispose();
      for (const t of [gap, bits, loss, perToken, correct, one]) t.dispose();
    });

    it('weights that sum to one give the mean over pictures', async () => {
      const [pictures, tokens, d] = [3, 5, 4];
      const [gap, bits] = [random(device, 4, [pictures, tokens, d]), packed(device, pictures * tokens, d)];
      const w = Array.from({ length: tokens }, (_, i) => (i + 1) / 15);
      const weight = Tensor.from(w, [tokens], 'f32', device);
      const { loss, perToken, correct } = bitLoss(gap, bits, weight);
      const per = await perToken.read();
      let want = 0;
      for (let i = 0; i < per.length; i++) want += (per[i]! * w[i % tokens]!) / pictures;
      assert.ok(Math.abs((await loss.read())[0]! - want) < 1e-6);
      for (const t of [gap, bits, weight, loss, perToken, correct]) t.dispose();
    });

    it('refuses operands that do not fit', () => {
      const [gap, bits] = [random(device, 1, [4, 3]), packed(device, 2, 3)];
      assert.throws(() => bitLoss(gap, bits, null), { code: 'INVALID_SHAPE' });
      assert.throws(() => foldBitHead(random(device, 1, [3, 2])), { code: 'INVALID_SHAPE' });
      assert.throws(() => bitLoss(gap, labels(device, 4, 3), null), { code: 'INVALID_SHAPE', message: /packBits/ });
      const right = packed(device, 4, 3);
      assert.throws(() => bitLoss(gap, right, null, { labelSmoothing: 2 }), { code: 'INVALID_ARGUMENT' });
      assert.throws(() => bitLoss(gap, right, random(device, 2, [3])), { code: 'INVALID_SHAPE' });
    });
  });
}
