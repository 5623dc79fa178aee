import assert from 'node:assert/strict';
import fc from 'fast-check';
import type { Device } from '../../lib/device.js';
import { bitFlip, bitSample, bitsToCodes, choiceRows, drawKeys, packBits, unpackBits } from '../../lib/ops/bits.js';
import { Op } from '../../lib/ops/generated.js';
import { philox4x32, RandomStream, uniformDraw } from '../../lib/philox.js';
import { Tensor } from '../../lib/tensor.js';
import { assertMixed16, bits, measure, stored } from '../support/bf16.js';
import { channelsFirst, GoldenCase } from '../support/golden_case.js';
import { assertClean, isaDevices, random, randomArray } from '../support/numeric.js';

const randomBits = (seed: number, n: number): Uint8Array => Uint8Array.from(randomArray(seed, n), (v) => Number(v > 0));
const uniform = (seed: number, n: number) => randomArray(seed, n).map((v) => (v + 1) / 2);
const bytes = (data: Uint8Array, shape: number[], device: Device) => Tensor.from(data, shape, 'u8', device);

describe('philox', () => {
  it('gives the published test vectors', () => {
    // Known answers of the Random123 distribution, philox4x32 with ten rounds.
    assert.deepEqual(philox4x32([0, 0], [0, 0, 0, 0]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
    const ones = 0xffffffff;
    assert.deepEqual(
      philox4x32([ones, ones], [ones, ones, ones, ones]),
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    );
    assert.deepEqual(
      philox4x32([0xa4093822, 0x299f31d0], [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344]),
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    );
  });
  it('refuses a seed that is no integer', () => {
    for (const seed of [-1, 0.5, Number.NaN, 2 ** 53, 1n << 64n])
      assert.throws(() => uniformDraw(seed, { stream: 0 }), { code: 'INVALID_ARGUMENT' });
  });
});

for (const [isa, device] of isaDevices()) {
  describe(`bits on ${isa}`, () => {
    let live = 0;
    beforeEach(() => {
      live = device.stats().liveTensors;
    });
    afterEach(() => assertClean(device, live));

    it('codes have the official magnitude', async () => {
      const official: [number, number][] = [
        [14, 0.26726127],
        [16, 0.25],
        [24, 0.20412415],
        [32, 0.17677671],
        [64, 0.125],
        [1, 1],
      ];
      for (const [d, magnitude] of official) {
        const bits = bytes(randomBits(d, 3 * d), [3, d], device);
        const codes = bitsToCodes(bits);
        const want = Float32Array.from(randomBits(d, 3 * d), (b) => (b ? magnitude : -magnitude));
        assert.deepEqual(await codes.read(), want);
        bits.dispose();
        codes.dispose();
      }
    });

    it('codes agree with bits_to_codes_d32_r1.000', async function () {
      const golden = GoldenCase.read(this, 'tokenizer/bits_to_codes_d32_r1.000');
      for (let k = 0; golden.has(`in.bits.${k}`); k++) {
        const { shape, data } = golden.array(`in.bits.${k}`);
        const bits = bytes(Uint8Array.from(data), [...shape], device);
        const codes = bitsToCodes(bits);
        golden.check(`out.codes.${k}`, channelsFirst(await codes.read(), [1, shape[2]!, shape[3]!, shape[4]!]));
        bits.dispose();
        codes.dispose();
      }
    });

    it('packBits and unpackBits are inverse and put channel 0 first', async () => {
      const one = bytes(Uint8Array.from([1, 0, 0, 0, 0, 0, 0, 1, 1, 1]), [10], device);
      const packed = packBits(one);
      assert.deepEqual([...(await packed.read())], [0b10000001, 0b11000000]);
      one.dispose();
      packed.dispose();
      await fc.assert(
        fc.asyncProperty(fc.integer({ min: 1, max: 70 }), fc.integer({ min: 1, max: 9 }), async (d, rows) => {
          const data = randomBits(d * 31 + rows, d * rows);
          const bits = bytes(data, [rows, d], device);
          const small = packBits(bits);
          const back = unpackBits(small, d);
          assert.deepEqual(small.shape, [rows, Math.ceil(d / 8)]);
          assert.deepEqual(await back.read(), data);
          for (const t of [bits, small, back]) t.dispose();
        }),
        { numRuns: 20 },
      );
    });

    it('bitFlip inverts where the draw is below the strength', async () => {
      const n = 3 * 5 * 33;
      const data = randomBits(4, n);
      const draws = Float32Array.from(randomArray(5, n), (v) => (v + 1) / 2);
      const [bits, u] = [bytes(data, [3, 5, 33], device), Tensor.from(draws, [3, 5, 33], 'f32', device)];
      const flipped = bitFlip(bits, 0.3, u);
      const strength = Math.fround(0.3);
      assert.deepEqual(
        await flipped.read(),
        data.map((b, i) => b ^ Number(draws[i]! < strength)),
      );
      for (const t of [bits, u, flipped]) t.dispose();
    });

    it('bitFlip draws per image, whatever the batch', async () => {
      const data = randomBits(6, 2 * 37);
      const seeds = [
        { seed: 9, image: 5 },
        { seed: (7n << 32n) + 3n, image: 0 },
      ] as const;
      const [bits, keys] = [bytes(data, [2, 37], device), drawKeys(seeds, device)];
      const both = bitFlip(bits, 0.5, { keys, scale: 2 });
      const got = await both.read();
      for (const [b, { seed, image }] of seeds.entries()) {
        for (let i = 0; i < 37; i++) {
          const u = uniformDraw(seed, { element: i, scale: 2, image, stream: RandomStream.bitFlip });
          assert.equal(got[b * 37 + i], data[b * 37 + i]! ^ Number(u < 0.5));
        }
      }
      for (const t of [bits, keys, both]) t.dispose();
    });

    it('bitSample guides, divides, drops the unlikely value and draws', async () => {
      const shape = [2, 7, 18];
      const [cond, uncond] = [random(device, 1, shape, 'f32', 6), random(device, 2, shape, 'f32', 6)];
      const [c, un] = [await cond.read(), await uncond.read()];
      const draws = Float32Array.from(randomArray(3, 126), (v) => (v + 1) / 2);
      const u = Tensor.from(draws, [2, 7, 9], 'f32', device);
      const { bits, prob0 } = bitSample(cond, uncond, { guidance: 3, tau: 0.7, topK: 900, topP: 0.97, draws: u });
      const [b, p] = [await bits.read(), await prob0.read()];
      let dropped = 0;
      for (let i = 0; i < 126; i++) {
        const gap = (3 * (c[2 * i + 1]! - c[2 * i]!) - 2 * (un[2 * i + 1]! - un[2 * i]!)) / 0.7;
        let p0 = 1 / (1 + Math.exp(gap));
        if (Math.min(p0, 1 - p0) <= 0.03) {
          p0 = gap > 0 ? 0 : 1;
          dropped++;
          assert.equal(p[i], p0);
        }
        assert.ok(Math.abs(p[i]! - p0) < 2e-6, `${p[i]} and ${p0}`);
        assert.equal(b[i], Number(draws[i]! > p[i]!));
      }
      assert.ok(dropped > 20 && dropped < 120);
      for (const t of [cond, uncond, u, bits, prob0]) t.dispose();
    });

    it('bitSample draws the same bits alone and inside a batch', async () => {
      const images = [
        { seed: 1, image: 0 },
        { seed: 2, image: 0 },
        { seed: 2n ** 63n, image: 4 },
      ];
      const logits = randomArray(8, 3 * 65 * 10, 2);
      const run = async (rows: readonly number[]) => {
        const data = rows.flatMap((i) => [...logits.subarray(i * 650, (i + 1) * 650)]);
        const cond = Tensor.from(data, [rows.length, 65, 10], 'f32', device);
        const keys = drawKeys(
          rows.map((i) => images[i]!),
          device,
        );
        const { bits, prob0 } = bitSample(cond, null, { draws: { keys, scale: 3 } });
        const out = await bits.read();
        for (const t of [cond, keys, bits, prob0]) t.dispose();
        return out;
      };
      const all = await run([0, 1, 2]);
      for (const i of [0, 1, 2]) assert.deepEqual(await run([i]), all.subarray(i * 325, (i + 1) * 325));
      const first = uniformDraw(2, { element: 9, scale: 3, stream: RandomStream.bitDraw });
      const gap = logits[650 + 19]! - logits[650 + 18]!;
      assert.equal(all[325 + 9], Number(first > 1 / (1 + Math.exp(gap))));
    });

    it('bitSample is greedy for topK 1; a tie is 0', async () => {
      const cond = Tensor.from([1, 2, 2, 1, 3, 3], [1, 1, 6], 'f32', device);
      const { bits, prob0 } = bitSample(cond, null, { topK: 1 });
      assert.deepEqual([...(await bits.read())], [1, 0, 0]);
      assert.deepEqual([...(await prob0.read())], [0, 1, 1]);
      for (const t of [cond, bits, prob0]) t.dispose();
    });

    it('bitSample reports logits that are not numbers', async () => {
      const cond = Tensor.from([1, Number.NaN], [1, 1, 2], 'f32', device);
      const { bits, prob0 } = bitSample(cond, null, { topK: 1 });
      await assert.rejects(bits.read(), { code: 'NUMERICAL' });
      for (const t of [cond, bits, prob0]) t.dispose();
    });

    it('bitSample refuses what makes no sense', () => {
      const cond = random(device, 1, [1, 2, 4]);
      for (const options of [{ guidance: Number.NaN }, { tau: 0 }, { topP: 2 }, { topK: -1 }, {}])
        assert.throws(() => bitSample(cond, null, options), { code: 'INVALID_ARGUMENT' });
      assert.throws(() => bitSample(cond, null, { draws: cond }), { code: 'INVALID_SHAPE' });
      cond.dispose();
    });

    it('bf16 is computed in float; probabilities and draws are f32', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor computes in f32 and f64
      for (const [B, L, d] of [
        [1, 1, 1],
        [2, 7, 14],
        [3, 5, 32],
      ] as const) {
        await assertMixed16(device, Op.bitsToCodes, [bits(B, L, d)], [stored(B, L, d)]);
        const draws = measure([B, L, d], uniform(9, B * L * d));
        for (const uncond of [stored(B, L, 2 * d), null]) {
          const choice = (on: Device): Tensor =>
            Tensor.from(choiceRows([{ guidance: 3, tau: 0.8, topP: 0.9 }]), [3], 'f32', on);
          const inputs = [stored(B, L, 2 * d), uncond, draws, null, choice];
          const params = [0, 0, RandomStream.bitDraw];
          await assertMixed16(device, Op.bitSample, inputs, [bits(B, L, d), measure([B, L, d])], { params, scale: 4 });
        }
      }
    });

    for (const name of ['d1_infer_greedy_no_cfg', 'd2_infer_greedy_cfg3_logits', 'd3_infer_sampled_full_schedule']) {
      it(`chooses the bits of ${name} from its logits`, async function () {
        const golden = GoldenCase.read(this, `transformer/${name}`);
        for (let k = 0; golden.has(`logits.s${k}`); k++) {
          const { shape, data } = golden.array(`logits.s${k}`);
          const cond = Tensor.from(data, shape, 'f32', device);
          const sampled = golden.has(`uniform_draws.s${k}`);
          const u = sampled ? golden.array(`uniform_draws.s${k}`) : undefined;
          const draws = u && Tensor.from(u.data, u.shape, 'f32', device);
          const { top_k, top_p } = golden.options as { top_k: number; top_p: number };
          const { bits, prob0 } = bitSample(cond, null, { topK: top_k, topP: top_p, draws });
          golden.check(`sampled_class.s${k}`, await bits.read());
          if (sampled) golden.check(`prob_of_0.s${k}`, await prob0.read());
          for (const t of [cond, draws, bits, prob0]) t?.dispose();
        }
      });
    }
  });
}
