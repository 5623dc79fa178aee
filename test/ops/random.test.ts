import assert from 'node:assert/strict';
import { type DrawKey, normal, uniform } from '../../lib/ops/random.js';
import { type Shape, Tensor } from '../../lib/tensor.js';
import { isaDevice, isaDevices } from '../support/numeric.js';

/** Philox-4x32-10, from Salmon et al. 2011: ten rounds, the key raised after each. */
function philox(counter: readonly number[], key: readonly number[]): number[] {
  let [c0, c1, c2, c3] = counter.map(BigInt) as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key.map(BigInt) as [bigint, bigint];
  const low = (x: bigint): bigint => x & 0xffffffffn;
  for (let round = 0; round < 10; round++) {
    const [p0, p1] = [c0 * 0xd2511f53n, c2 * 0xcd9e8d57n];
    [c0, c1, c2, c3] = [(p1 >> 32n) ^ c1 ^ k0, low(p1), (p0 >> 32n) ^ c3 ^ k1, low(p0)];
    [k0, k1] = [low(k0 + 0x9e3779b9n), low(k1 + 0xbb67ae85n)];
  }
  return [c0, c1, c2, c3].map(Number);
}

const ones = 0xffffffff;
/** Known answers published with Random123 (kat_vectors): counter, key, result. */
const knownAnswers = [
  [
    [0, 0, 0, 0],
    [0, 0],
    [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
  ],
  [
    [ones, ones, ones, ones],
    [ones, ones],
    [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
  ],
  [
    [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
    [0xa4093822, 0x299f31d0],
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  ],
] as const;

for (const [isa, device] of isaDevices()) {
  const values = async (shape: Shape, key: DrawKey): Promise<Float32Array> => {
    const y = uniform(shape, { ...key, device });
    const out = (await y.read()) as Float32Array;
    y.dispose();
    return out;
  };
  const expected = (n: number, key: [number, number], scale: number, image: number, stream: number): number[] =>
    Array.from({ length: n }, (_, i) => (philox([i >> 2, scale, image, stream], key)[i % 4]! >>> 8) * 2 ** -24);

  describe(`random on ${isa}`, () => {
    it('the reference of this test gives the published known answers', () => {
      for (const [counter, key, result] of knownAnswers) assert.deepEqual(philox(counter, key), result);
    });
    it('uniform draws Philox words by element, scale, image and stream', async () => {
      assert.deepEqual([...(await values([2, 5], { seed: 0 }))], expected(10, [0, 0], 0, 0, 0));
      const seed = 0x299f31d0_a4093822n;
      const got = await values([4103], { seed, scale: 0x85a308d3, image: 0x13198a2e, stream: 0x03707344 });
      assert.deepEqual([...got], expected(4103, [0xa4093822, 0x299f31d0], 0x85a308d3, 0x13198a2e, 0x03707344));
    });
    it('an image draws the same alone and at any place of a batch', async () => {
      const ids = Tensor.from([5, 9, 5], [3], 'i32', device);
      const batch = await values([3, 7, 3], { seed: 7, image: ids, scale: 2 });
      const alone = await values([7, 3], { seed: 7, image: 5, scale: 2 });
      assert.deepEqual(batch.slice(0, 21), alone);
      assert.deepEqual(batch.slice(42), alone);
      assert.notDeepEqual(batch.slice(21, 42), alone);
      ids.dispose();
    });
    it('normal has the moments of a normal, and inverts its distribution function', async () => {
      const n = 40000;
      const draws = normal([n], { seed: 3, device, mean: 0.5, std: 2 });
      const x = (await draws.read()) as Float32Array;
      draws.dispose();
      const mean = x.reduce((s, e) => s + e, 0) / n;
      const variance = x.reduce((s, e) => s + (e - mean) ** 2, 0) / n;
      assert.ok(Math.abs(mean - 0.5) < 0.04 && Math.abs(variance - 4) < 0.12, `${mean} ${variance}`);
      // The share of draws below mean + z·std is Φ(z), and each draw sits at the quantile of its uniform.
      const u = await values([n], { seed: 3 });
      const below = (z: number): number => u.filter((_, i) => x[i]! < 0.5 + 2 * z).length / n;
      for (const [z, share] of [
        [-1.959964, 0.025],
        [-0.6744898, 0.25],
        [0, 0.5],
        [1.281552, 0.9],
      ] as const) {
        assert.ok(Math.abs(below(z) - share) < 0.01);
        for (let i = 0; i < n; i++)
          if (Math.abs(u[i]! - share) > 1e-6) assert.equal(x[i]! < 0.5 + 2 * z, u[i]! < share);
      }
    });
    it('draws the same normal numbers as the plain processor', async () => {
      for (const range of [{}, { lo: -1, hi: 2.5 }]) {
        const [here, there] = await Promise.all(
          [device, isaDevice('generic')].map(async (on) => {
            const y = normal([4099], {
              seed: 5,
              scale: 3,
              image: 2,
              stream: 1,
              mean: 0.1,
              std: 1.5,
              device: on,
              ...range,
            });
            const read = (await y.read()) as Float32Array;
            y.dispose();
            return read;
          }),
        );
        // Computed in double and rounded: a rounding that goes the other way is the most that may differ.
        for (let i = 0; i < 4099; i++)
          assert.ok(
            Math.abs(here![i]! - there![i]!) <= 2 ** -23 * Math.abs(there![i]!),
            `${i}: ${here![i]} ${there![i]}`,
          );
      }
    });
    it('a truncated normal stays inside and fills its range', async () => {
      const draws = normal([20000], { seed: 1, device, std: 1.2, lo: -2, hi: 2 });
      const x = (await draws.read()) as Float32Array;
      draws.dispose();
      assert.ok(x.every((e) => e >= -2 && e <= 2));
      assert.ok(x.some((e) => e > 1.95) && x.some((e) => e < -1.95));
      // Var of N(0, 1.2²) cut at ±2: 1.2²·(1 - 2aφ(a) / (2Φ(a) - 1)), a = 5/3.
      const variance = x.reduce((s, e) => s + e * e, 0) / x.length;
      assert.ok(Math.abs(variance - 0.9121) < 0.03, String(variance));
    });
    it('refuses keys that do not fit the counter', () => {
      for (const key of [
        { seed: -1 },
        { seed: 2 ** 60 },
        { seed: 2n ** 64n },
        { seed: 0, scale: 0.5 },
        { seed: 0, stream: -1 },
      ])
        assert.throws(() => uniform([4], { ...key, device }), { code: 'INVALID_ARGUMENT' });
      const ids = Tensor.from([1], [1], 'i32', device);
      assert.throws(() => uniform([2, 2], { seed: 0, image: ids }), { code: 'INVALID_SHAPE' });
      assert.throws(() => normal([4], { seed: 0, std: 0, device }), { code: 'INVALID_ARGUMENT' });
      ids.dispose();
    });
  });
}
