import assert from 'node:assert/strict';
import type { Device } from '../../lib/device.js';
import type { BitSampleOptions } from '../../lib/ops/bits.js';
import { drawKeys, packBits } from '../../lib/ops/bits.js';
import { Op } from '../../lib/ops/generated.js';
import { indexLoss, indexSample } from '../../lib/ops/indices.js';
import { statistic } from '../../lib/ops/run.js';
import { RandomStream, uniformDraw } from '../../lib/philox.js';
import { Tensor } from '../../lib/tensor.js';
import { integerLabels } from '../../lib/tokenizer/bit_tokens.js';
import { assertMixed16, measure, stored } from '../support/bf16.js';
import {
  assertClean,
  assertGradients,
  assertMatchesReference,
  isaDevices,
  random,
  randomArray,
  randomLabels,
} from '../support/numeric.js';

const labels = (device: Device, tokens: number, d: number): Tensor =>
  Tensor.from(
    Uint8Array.from(randomArray(77, tokens * d), (v) => Number(v > 0)),
    [tokens, d],
    'u8',
    device,
  );
const packed = (device: Device, tokens: number, d: number): Tensor => randomLabels(77, [tokens, d], device);
const digits = (index: number, d: number): number[] => Array.from({ length: d }, (_, j) => (index >> (d - 1 - j)) & 1);
const softmax = (x: readonly number[]): number[] => {
  const top = Math.max(...x);
  const shares = x.map((v) => Math.exp(v - top));
  const sum = shares.reduce((a, v) => a + v, 0);
  return shares.map((v) => v / sum);
};

/** The official order by its definition: sorted lists, equal logits kept or dropped together. */
function reference(logits: readonly number[], { topK = 0, topP = 0 }: BitSampleOptions): number[] {
  let kept = [...logits];
  if (topK > 0) {
    const least = [...logits].sort((a, b) => b - a)[Math.min(topK, logits.length) - 1]!;
    kept = kept.map((v) => (v < least ? Number.NEGATIVE_INFINITY : v));
  }
  if (topP > 0) {
    const p = softmax(kept);
    const most = Math.max(...kept);
    const upTo = (v: number) => p.reduce((a, q, i) => a + (kept[i]! <= v ? q : 0), 0);
    kept = kept.map((v) => (v < most && upTo(v) <= 1 - topP ? Number.NEGATIVE_INFINITY : v));
  }
  return softmax(kept);
}

for (const [isa, device] of isaDevices()) {
  describe(`index classifier on ${isa}`, () => {
    let live = 0;
    beforeEach(() => {
      live = device.stats().liveTensors;
    });
    afterEach(() => assertClean(device, live));

    for (const [tokens, d] of [
      [1, 1],
      [3, 4],
      [33, 5],
      [9, 12],
    ] as const) {
      it(`is softmax cross entropy over all codes, ${tokens} tokens of ${d} bits`, async () => {
        const V = 2 ** d;
        const [x, y] = [random(device, 1, [tokens, V], 'f32', 6), labels(device, tokens, d)];
        const [logits, want] = [await x.read(), integerLabels((await y.read()) as Uint8Array, d)];
        const byBytes = packBits(y);
        for (const [reduction, labelSmoothing] of [
          ['mean', 0],
          ['sum', 0.1],
        ] as const) {
          const { loss, perToken, correct } = indexLoss(x, byBytes, null, { reduction, labelSmoothing });
          const [per, right, total] = [await perToken.read(), await correct.read(), (await loss.read())[0]!];
          let mean = 0;
          for (let t = 0; t < tokens; t++) {
            const row = [...logits.subarray(t * V, (t + 1) * V)];
            const logs = softmax(row).map(Math.log);
            const even = logs.reduce((a, v) => a + v, 0) / V;
            const each = -((1 - labelSmoothing) * logs[Number(want[t])]! + labelSmoothing * even);
            const scaled = reduction === 'mean' ? each / d : each;
            assert.ok(Math.abs(per[t]! - scaled) < 3e-6 * Math.max(1, scaled), `${per[t]} and ${scaled}`);
            const best = digits(row.indexOf(Math.max(...row)), d);
            const truth = digits(Number(want[t]), d);
            assert.equal(right[t], best.filter((b, j) => b === truth[j]).length);
            mean += scaled / tokens;
          }
          assert.ok(Math.abs(total - mean) < 3e-6 * Math.max(1, mean), `${total} and ${mean}`);
          for (const t of [loss, perToken, correct]) t.dispose();
        }
        for (const t of [x, y, byBytes]) t.dispose();
      });
    }

    it('has the gradients of finite differences, weighted and smoothed', async () => {
      const f = (x: Tensor) => {
        const weight = random(x.device, 9, [3], statistic(x));
        return indexLoss(x, packed(x.device, 6, 3), weight, { labelSmoothing: 0.2 }).loss;
      };
      await assertGradients(device, f, [[2, 3, 8]]);
      const sum = (x: Tensor) => indexLoss(x, packed(x.device, 3, 5), null, { reduction: 'sum' }).loss;
      await assertGradients(device, sum, [[3, 32]]);
    });

    it('f32 and f64 agree', async () => {
      for (const [tokens, d] of [
        [70, 5],
        [5, 11],
      ] as const) {
        const f = (x: Tensor) => {
          const { loss, perToken } = indexLoss(x, packed(x.device, tokens, d), null);
          return [loss, perToken];
        };
        await assertMatchesReference(device, f, [[tokens, 2 ** d]], { scale: 20 });
      }
    });

    it('bf16 is computed in float; the loss and its metrics are f32', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor computes in f32 and f64
      for (const [tokens, d] of [
        [1, 1],
        [33, 9],
      ] as const) {
        const inputs = [stored(tokens, 2 ** d), (on: Device) => packed(on, tokens, d), measure([tokens])] as const;
        const outputs = [measure(), measure([tokens]), measure([tokens]), measure([tokens])];
        await assertMixed16(device, Op.indexLoss, inputs, outputs, { params: [1 / d, 0.1], scale: 6 });
        const logSum = measure([tokens], new Array(tokens).fill(d + 3));
        const back = [measure(), inputs[0]!, logSum, inputs[1]!, inputs[2]!];
        await assertMixed16(device, Op.indexLossBackward, back, [stored(tokens, 2 ** d)], { params: [1 / d, 0.1] });
      }
    });

    it('stays finite for enormous logits', async () => {
      const x = Tensor.from([1e30, -1e30, 0, 200, 200, -200, 0, 0], [2, 4], 'f32', device);
      const y = Tensor.from(Uint8Array.of(0b01000000, 0b01111111), [2, 1], 'u8', device); // nothing is read behind a token's bits
      const { loss, perToken, correct } = indexLoss(x, y, null, { reduction: 'sum' });
      assert.deepEqual([...(await perToken.read())], [Math.fround(2e30), 400]);
      // Of equal logits the first is the choice: 00 for a label 01.
      assert.deepEqual([...(await correct.read())], [1, 1]);
      for (const t of [x, y, loss, perToken, correct]) t.dispose();
    });

    for (const how of [
      { topK: 0, topP: 0 },
      { topK: 5, topP: 0 },
      { topK: 0, topP: 0.9 },
      { topK: 20, topP: 0.8 },
      { topK: 900, topP: 0.97 },
    ]) {
      it(`draws in the official order, topK ${how.topK}, topP ${how.topP}`, async () => {
        const [B, L, d] = [2, 9, 6];
        const V = 2 ** d;
        const shape = [B, L, V];
        const [cond, uncond] = [random(device, 1, shape, 'f32', 3), random(device, 2, shape, 'f32', 3)];
        const [c, u] = [await cond.read(), await uncond.read()];
        const numbers = Float32Array.from(randomArray(3, B * L), (v) => (v + 1) / 2);
        const draws = Tensor.from(numbers, [B, L, 1], 'f32', device);
        const { bits, probability } = indexSample(cond, uncond, { ...how, guidance: 2, tau: 0.7, draws });
        const [drawn, p] = [await bits.read(), await probability.read()];
        for (let r = 0; r < B * L; r++) {
          const logits = Array.from({ length: V }, (_, i) => (2 * c[r * V + i]! - u[r * V + i]!) / 0.7);
          const shares = reference(logits, how);
          let before = 0;
          const index = shares.findIndex((share) => {
            before += share;
            return before > numbers[r]!;
          });
          assert.deepEqual([...drawn.subarray(r * d, (r + 1) * d)], digits(index, d));
          assert.ok(Math.abs(p[r]! - shares[index]!) < 1e-5, `${p[r]} and ${shares[index]}`);
        }
        for (const t of [cond, uncond, draws, bits, probability]) t.dispose();
      });
    }

    it('greedy takes the first of the likeliest and draws nothing; equal logits stay together', async () => {
      const x = Tensor.from([1, 3, 3, 0, -0, 0, -1, -0], [1, 2, 4], 'f32', device);
      const greedy = indexSample(x, null, { topK: 1 });
      assert.deepEqual([...(await greedy.bits.read())], [0, 1, 0, 0]);
      const draws = Tensor.from([0.999, 0.999], [1, 2, 1], 'f32', device);
      // Two of the k likeliest are asked for; of the three zeros none goes before another.
      const drawn = indexSample(x, null, { topK: 2, draws });
      assert.deepEqual([...(await drawn.bits.read())], [1, 0, 1, 1]);
      assert.deepEqual([...(await drawn.probability.read())], [0.5, Math.fround(1 / 3)]);
      for (const t of [x, draws, ...Object.values(greedy), ...Object.values(drawn)]) t.dispose();
    });

    it('draws by picture and token, whatever the batch', async () => {
      const images = [
        { seed: 9, image: 5 },
        { seed: (7n << 32n) + 3n, image: 0 },
      ] as const;
      const [keys, x] = [drawKeys(images, device), random(device, 4, [2, 5, 8])];
      const logits = await x.read();
      const { bits, probability } = indexSample(x, null, { draws: { keys, scale: 2 } });
      const drawn = await bits.read();
      for (const [b, { seed, image }] of images.entries())
        for (let t = 0; t < 5; t++) {
          const u = uniformDraw(seed, { element: t, scale: 2, image, stream: RandomStream.bitDraw });
          let before = 0;
          const row = (b * 5 + t) * 8;
          const index = softmax([...logits.subarray(row, row + 8)]).findIndex((share) => {
            before += share;
            return before > u;
          });
          assert.deepEqual([...drawn.subarray((b * 5 + t) * 3, (b * 5 + t + 1) * 3)], digits(index, 3));
        }
      for (const t of [keys, x, bits, probability]) t.dispose();
    });

    it('reports logits that are not numbers', async () => {
      const x = Tensor.from([1, Number.NaN, 0, 0], [1, 1, 4], 'f32', device);
      const { bits, probability } = indexSample(x, null, { topK: 1 });
      await assert.rejects(bits.read(), { code: 'NUMERICAL' });
      for (const t of [x, bits, probability]) t.dispose();
    });

    it('refuses operands that do not fit', () => {
      const [x, y] = [random(device, 1, [2, 8]), packed(device, 2, 3)];
      const [six, nine, bytes] = [random(device, 1, [2, 6]), packed(device, 2, 9), labels(device, 2, 3)];
      assert.throws(() => indexLoss(six, y, null), { code: 'INVALID_SHAPE' });
      for (const labels of [nine, bytes]) assert.throws(() => indexLoss(x, labels, null), { code: 'INVALID_SHAPE' });
      assert.throws(() => indexLoss(x, y, null, { labelSmoothing: 2 }), { code: 'INVALID_ARGUMENT' });
      const logits = random(device, 1, [1, 2, 8]);
      assert.throws(() => indexSample(logits, null, {}), { code: 'INVALID_ARGUMENT' });
      const three = random(device, 1, [1, 2, 3]);
      assert.throws(() => indexSample(logits, null, { draws: three }), { code: 'INVALID_SHAPE' });
      for (const t of [x, y, six, nine, bytes, logits, three]) t.dispose();
    });
  });
}
