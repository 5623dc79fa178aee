import assert from 'node:assert/strict';
import type { Device } from '../../lib/device.js';
import { bitHeadSample } from '../../lib/ops/bit_head.js';
import { bitCrossEntropy, bitLoss, foldBitHead } from '../../lib/ops/bit_loss.js';
import { bitSample, bitsToCodes, choiceRows, drawKeys, packBits } from '../../lib/ops/bits.js';
import { Op } from '../../lib/ops/generated.js';
import { linear } from '../../lib/ops/linear.js';
import { run, statistic } from '../../lib/ops/run.js';
import { RandomStream } from '../../lib/philox.js';
import { type Shape, scope, Tensor } from '../../lib/tensor.js';
import { fromBf16, randomBf16, toBf16 } from '../support/bf16.js';
import {
  assertClean,
  assertMatchesReference,
  isaDevices,
  random,
  randomArray,
  randomLabels,
  referenceOf,
} from '../support/numeric.js';

const uniform = (seed: number, n: number): Float64Array => randomArray(seed, n).map((v) => (v + 1) / 2);
const root = (values: readonly number[]): number => Math.hypot(...values) / Math.sqrt(values.length);

/** x·wᵀ + b in double. */
function gapsOf(x: Float64Array, w: Float64Array, b: Float64Array, C: number): number[] {
  const D = w.length / C;
  return Array.from({ length: (x.length / C) * D }, (_, i) => {
    const [r, j] = [Math.floor(i / D), i % D];
    let sum = b[j]!;
    for (let k = 0; k < C; k++) sum += x[r * C + k]! * w[j * C + k]!;
    return sum;
  });
}

for (const [isa, device] of isaDevices()) {
  describe(`bit head on ${isa}`, () => {
    let live = 0;
    beforeEach(() => {
      live = device.stats().liveTensors;
    });
    afterEach(() => assertClean(device, live));

    for (const [tokens, C, D] of [
      [[1], 1, 1],
      [[3], 5, 14],
      [[2, 33], 31, 16],
      [[130], 17, 33],
      [[2, 10], 300, 70],
    ] as const) {
      it(`loss and metrics are those of product and bitLoss, ${tokens} tokens of ${D} bits`, async () => {
        const fn = (x: Tensor, w: Tensor, b: Tensor): Tensor[] => {
          const bits = randomLabels(77, [...tokens, D], x.device);
          const weight = random(x.device, 9, [tokens.at(-1)!], statistic(x));
          const options = { reduction: 'sum', labelSmoothing: 0.1 } as const;
          const { loss, perToken, correct } =
            x.dtype === 'f64'
              ? bitLoss(linear(x, foldBitHead(w), foldBitHead(b)), bits, weight, options)
              : bitCrossEntropy(x, w, b, bits, weight, options);
          return [loss, perToken, correct];
        };
        await assertMatchesReference(device, fn, [[...tokens, C], [2 * D, C], [2 * D]], { tolerance: 5e-6 });
      });
    }

    it('loss is bit for bit that of product and bitLoss on the processor', async function () {
      if (device.kind !== 'cpu') this.skip(); // a card sums the product in another order
      const outputs = scope(() => {
        const [x, w, b] = [random(device, 1, [77, 65]), random(device, 2, [28, 65]), random(device, 3, [28])];
        const bits = randomLabels(77, [77, 14], device);
        const composed = bitLoss(linear(x, foldBitHead(w), foldBitHead(b)), bits, null);
        return [composed, bitCrossEntropy(x, w, b, bits, null)].flatMap((l) => [l.loss, l.perToken, l.correct]);
      });
      const read = await Promise.all(outputs.map((t) => t.read()));
      for (const t of outputs) t.dispose();
      assert.deepEqual(read.slice(3), read.slice(0, 3));
    });

    it('loss refuses operands that do not fit', () => {
      const [x, w, four] = [random(device, 1, [3, 4]), random(device, 2, [10, 4]), randomLabels(77, [4, 5], device)];
      const bits = Tensor.from(new Uint8Array(15), [3, 5], 'u8', device);
      for (const labels of [four, bits])
        assert.throws(() => bitCrossEntropy(x, w, null, labels, null), { code: 'INVALID_SHAPE' });
      for (const t of [x, w, four, bits]) t.dispose();
    });

    for (const [B, L, C, D] of [
      [1, 1, 1, 1],
      [2, 7, 33, 14],
      [1, 21, 40, 32],
      [2, 5, 64, 70],
    ] as const) {
      for (const guidance of [1, 3])
        it(`draws what bitSample draws from logits, ${B} x ${L} x ${D}, guidance ${guidance}`, async () => {
          const samples = guidance === 1 ? B : 2 * B;
          const images = Array.from({ length: B }, (_, i) => ({ seed: 11, image: i }));
          const inputs = (on: Device): [Tensor, Tensor, Tensor] => [
            random(on, 1, [samples, L, C], 'f32', 2),
            random(on, 2, [2 * D, C]),
            random(on, 3, [2 * D]),
          ];
          const options = { guidance, tau: 0.7, topP: 0.95 };
          const got = scope(() => {
            const [x, w, b] = inputs(device);
            const draws = { keys: drawKeys(images, device), scale: 2 };
            const wanted = { images: B, codeBits: D, packed: true, probabilities: true };
            const drawn = bitHeadSample(x, foldBitHead(w), foldBitHead(b), { ...options, draws, ...wanted });
            return [
              drawn.bits,
              drawn.prob0!,
              drawn.codes!,
              drawn.packed!,
              bitsToCodes(drawn.bits),
              packBits(drawn.bits),
            ];
          });
          const want = scope(() => {
            const on = referenceOf(device);
            const [x, w, b] = inputs(on);
            const logits = linear(x, w, b);
            const half = (n: number) => logits.view([B, L, 2 * D], n * B * L * 2 * D);
            const draws = { keys: drawKeys(images, on), scale: 2 };
            const { bits, prob0 } = bitSample(half(0), samples > B ? half(1) : null, { ...options, draws });
            return [bits, prob0];
          });
          const [bits, prob0, codes, packed, codesOfBits, packedBits] = await Promise.all(got.map((t) => t.read()));
          const [wantBits, wantProb0] = await Promise.all(want.map((t) => t.read()));
          for (const t of [...got, ...want]) t.dispose();
          let close = 0;
          for (let i = 0; i < bits!.length; i++) {
            // Where a probability is at a threshold, rounding decides.
            if (Math.abs(prob0![i]! - wantProb0![i]!) > 1e-4) continue;
            close++;
            assert.ok(Math.abs(prob0![i]! - wantProb0![i]!) < 2e-5, `${prob0![i]} and ${wantProb0![i]}`);
            assert.equal(bits![i], wantBits![i]);
          }
          assert.ok(close >= bits!.length - 1, `${close} of ${bits!.length} probabilities agree`);
          assert.deepEqual(codes, codesOfBits);
          assert.deepEqual(packed, packedBits);
        });
    }

    it('draws from recorded numbers, alone as in a batch, and gives the bits alone when nothing else is wanted', async () => {
      const [B, L, C, D] = [3, 18, 24, 10];
      const x = randomArray(1, 2 * B * L * C, 2);
      const draws = uniform(2, B * L * D);
      const run = async (which: readonly number[]) => {
        const rows = <T>(data: ArrayLike<T>, n: number, first: number): T[] =>
          which.flatMap((i) => Array.from({ length: n }, (_, k) => data[first + i * n + k]!));
        const hidden = [...rows(x, L * C, 0), ...rows(x, L * C, B * L * C)];
        const drawn = scope(() =>
          bitHeadSample(Tensor.from(hidden, [2 * which.length, L, C], 'f32', device), random(device, 5, [D, C]), null, {
            images: which.length,
            guidance: 2,
            draws: Tensor.from(rows(draws, L * D, 0), [which.length, L, D], 'f32', device),
          }),
        );
        assert.deepEqual([drawn.codes, drawn.packed, drawn.prob0], [null, null, null]);
        const bits = await drawn.bits.read();
        drawn.bits.dispose();
        return bits;
      };
      const all = await run([0, 1, 2]);
      for (const i of [0, 1, 2]) assert.deepEqual(await run([i]), all.subarray(i * L * D, (i + 1) * L * D));
      const ones = Array.from(all).reduce((sum, bit) => sum + bit, 0);
      assert.ok(ones > all.length / 4 && ones < (3 * all.length) / 4);
    });

    it('is greedy for topK 1, reports what is not a number, refuses what makes no sense', async () => {
      const x = Tensor.from([1, 2, -1, 2, 0, 0], [1, 3, 2], 'f32', device);
      const head = Tensor.from([1, 0, 0, -1], [2, 2], 'f32', device);
      const greedy = bitHeadSample(x, head, null, { images: 1, topK: 1 });
      assert.deepEqual([...(await greedy.bits.read())], [1, 0, 0, 0, 0, 0]);
      const bad = Tensor.from([1, Number.NaN], [1, 1, 2], 'f32', device);
      const none = bitHeadSample(bad, head, null, { images: 1, topK: 1 });
      await assert.rejects(none.bits.read(), { code: 'NUMERICAL' });
      assert.throws(() => bitHeadSample(x, head, null, { images: 1 }), { code: 'INVALID_ARGUMENT' });
      assert.throws(() => bitHeadSample(x, head, null, { images: 2, topK: 1 }), { code: 'INVALID_SHAPE' });
      for (const t of [x, head, bad, greedy.bits, none.bits]) t.dispose();
    });

    it('takes a head in bf16 with hidden states in f32', async () => {
      const [L, C, D] = [5, 37, 14];
      const [x, w] = [randomArray(1, L * C), randomBf16(2, D * C)];
      const drawn = scope(() =>
        bitHeadSample(Tensor.from(x, [1, L, C], 'f32', device), Tensor.from(toBf16(w), [D, C], 'bf16', device), null, {
          images: 1,
          probabilities: true,
          draws: { keys: drawKeys([{ seed: 1, image: 0 }], device), scale: 0 },
        }),
      );
      const prob0 = await drawn.prob0!.read();
      const want = gapsOf(x, w, new Float64Array(D), C).map((gap) => 1 / (1 + Math.exp(gap)));
      for (const [i, p] of want.entries()) assert.ok(Math.abs(prob0[i]! - p) < 2e-6);
      drawn.bits.dispose();
      drawn.prob0!.dispose();
    });

    // Every shape of the product: 16 and 32 rows by 32 columns, 64 columns, several of them; lengths that no fragment has.
    for (const [B, L, C, D] of [
      [2, 150, 64, 32],
      [2, 9, 296, 32],
      [1, 40, 40, 14],
      [2, 11, 128, 56],
      [1, 19, 32, 70],
      [1, 17, 33, 16],
    ] as const) {
      it(`bf16 of ${B} x ${L} x ${C}, ${D} bits`, async function () {
        if (device.kind !== 'cuda') this.skip(); // the processor computes in f32 and f64
        const guidance = 3;
        const [x, w, b] = [randomBf16(1, 2 * B * L * C, 2), randomBf16(2, D * C), randomBf16(3, D)];
        const half = B * L * C;
        const [cond, uncond] = [gapsOf(x.subarray(0, half), w, b, C), gapsOf(x.subarray(half), w, b, C)];
        const on16 = (values: Float64Array, shape: Shape): Tensor => Tensor.from(toBf16(values), shape, 'bf16', device);
        const probability = (gap: number): number => 1 / (1 + Math.exp(gap));

        for (const guided of [false, true]) {
          const samples = guided ? 2 * B : B;
          const [bits, prob0, packed, codes, packedBits, codesOfBits] = scope(() => {
            const operands = [on16(x.subarray(0, samples * L * C), [samples, L, C]), on16(w, [D, C]), on16(b, [D])];
            const draws = Tensor.from(uniform(4, B * L * D), [B, L, D], 'f32', device);
            const choice = Tensor.from(choiceRows([{ guidance }]), [3], 'f32', device);
            const [bits, prob0, packed, codes] = run(
              Op.bitHeadSample,
              [...operands, draws, null, choice],
              [
                { dtype: 'u8', shape: [B, L, D] },
                { dtype: 'f32', shape: [B, L, D] },
                { dtype: 'u8', shape: [B, L, Math.ceil(D / 8)] },
                { dtype: 'bf16', shape: [B, L, D] },
              ],
              [0, 0, RandomStream.bitDraw, D],
            );
            return [bits!, prob0!, packed!, codes!, packBits(bits!), bitsToCodes(bits!)];
          });
          const got = await Promise.all([prob0!.read(), bits!.read()]);
          assert.deepEqual(await packed!.read(), await packedBits!.read());
          assert.deepEqual(fromBf16(toBf16(await codesOfBits!.read())), Float64Array.from(await codes!.readFloats()));
          for (const t of [bits!, prob0!, packed!, codes!, packedBits!, codesOfBits!]) t.dispose();
          const draws = uniform(4, B * L * D);
          for (const [i, u] of draws.entries()) assert.equal(got[1][i], Number(Math.fround(u) > got[0][i]!));
          const exact = cond.map((c, i) => probability(guided ? guidance * c + (1 - guidance) * uncond[i]! : c));
          const error = root(exact.map((p, i) => got[0][i]! - p));
          assert.ok(error < 1e-6, `${error}`); // nothing is rounded to bf16 on the way
        }
      });

      it(`bf16 loss of ${B * L} tokens, ${D} bits`, async function () {
        if (device.kind !== 'cuda') this.skip(); // the processor computes in f32 and f64
        const [x, w, b] = [randomBf16(1, B * L * C, 2), randomBf16(2, D * C), randomBf16(3, D)];
        const lossOf = (dtype: 'bf16' | 'f64', on: Device): Tensor[] =>
          scope(() => {
            const given = (v: Float64Array, shape: Shape) =>
              Tensor.from(dtype === 'f64' ? v : toBf16(v), shape, dtype, on);
            const measure = dtype === 'f64' ? 'f64' : 'f32';
            return run(
              Op.bitHeadLoss,
              [given(x, [B, L, C]), given(w, [D, C]), given(b, [D]), randomLabels(77, [B, L, D], on), null],
              [
                { dtype: measure, shape: [] },
                { dtype, shape: [B, L, D] },
                { dtype: measure, shape: [B * L] },
                { dtype: measure, shape: [B * L] },
              ],
              [1 / D, 0.1],
            );
          });
        const [got, want] = [lossOf('bf16', device), lossOf('f64', referenceOf(device))];
        const read = (tensors: Tensor[]) => Promise.all(tensors.map((t) => t.readFloats()));
        const [ours, exact] = [await read(got), await read(want)];
        for (const t of [...got, ...want]) t.dispose();
        for (const [k, values] of exact.entries()) {
          const largest = Array.from(values).reduce((most, v) => Math.max(most, Math.abs(v)), 0);
          for (let i = 0; i < values.length; i++) {
            const allowed = k === 1 ? 2 ** -8 * Math.abs(values[i]!) + 2e-6 * largest : 5e-6 * largest;
            assert.ok(Math.abs(ours[k]![i]! - values[i]!) <= allowed, `output ${k}: ${ours[k]![i]} for ${values[i]}`);
          }
        }
      });
    }
  });
}
