import assert from 'node:assert/strict';
import fc from 'fast-check';
import { Device } from '../../lib/device.js';
import { bitsToCodes } from '../../lib/ops/bits.js';
import { Tensor } from '../../lib/tensor.js';
import { addCodes, sumOfBits } from '../../lib/tokenizer/bit_tokens.js';
import { FREE_BIT, forceBits, forcedBits, keepSum, keptSums, redrawnShare } from '../../lib/tokenizer/kept.js';
import { finestGrid, parseGrids } from '../../lib/tokenizer/schedule.js';
import { randomArray } from '../support/numeric.js';

const randomBits = (seed: number, n: number): Uint8Array => Uint8Array.from(randomArray(seed, n), (v) => Number(v > 0));

describe('what is kept of a picture', () => {
  const live = () => Device.default().stats().liveTensors;
  let before = 0;
  beforeEach(async () => {
    await Device.default().sync();
    before = live();
  });
  afterEach(() => assert.equal(live(), before, 'tensors leaked'));

  it('forces exactly the bits that are not free, for one picture or each', async () => {
    const bit = fc.constantFrom(0, 1, FREE_BIT);
    const shape = fc.tuple(
      fc.integer({ min: 1, max: 3 }),
      fc.integer({ min: 1, max: 7 }),
      fc.integer({ min: 1, max: 9 }),
    );
    const cases = shape.chain(([B, L, D]) =>
      fc.tuple(
        fc.constant([B, L, D] as const),
        fc.uint8Array({ min: 0, max: 1, minLength: B * L * D, maxLength: B * L * D }),
        fc.boolean().chain((each) => {
          const n = (each ? B : 1) * L * D;
          return fc.array(bit, { minLength: n, maxLength: n });
        }),
      ),
    );
    await fc.assert(
      fc.asyncProperty(cases, async ([size, drawn, forced]) => {
        using bits = Tensor.from(drawn, size, 'u8');
        using got = forceBits(bits, Uint8Array.from(forced));
        const expected = drawn.map((b, i) => (forced[i % forced.length] === FREE_BIT ? b : forced[i % forced.length]!));
        assert.deepEqual(await got.read(), expected);
      }),
      { numRuns: 30 },
    );
    using bits = Tensor.from(randomBits(1, 24), [2, 3, 4], 'u8');
    assert.throws(() => forceBits(bits, new Uint8Array(11)), { code: 'INVALID_ARGUMENT', message: /12 or 24/ });
  });

  it('is, after every scale, the running sum of the picture at kept positions and the drawn one elsewhere', async () => {
    const schedule = parseGrids('1 2x3 3 4x6 5x7');
    const [H, W] = finestGrid(schedule);
    const d = 6;
    const picture = schedule.map(([, h, w], k) => randomBits(10 + k, h * w * d));
    const drawn = schedule.map(([, h, w], k) => randomBits(20 + k, h * w * d));
    const redrawn = randomBits(3, H * W);
    const upload = (bits: readonly Uint8Array[]) =>
      bits.map((values, k) => Tensor.from(values, [1, schedule[k]![1], schedule[k]![2], d], 'u8'));
    const [own, other] = [upload(picture), upload(drawn)];
    const kept = keptSums(picture, schedule, redrawn, { device: Device.default(), dtype: 'f32' });
    let sum: Tensor | null = null;
    for (const k of schedule.keys()) {
      using codes = bitsToCodes(other[k]!);
      using next: Tensor = addCodes(sum, codes, [H, W]);
      const mixed = keepSum(next, kept, k);
      using plain = sumOfBits(own.slice(0, k + 1), schedule);
      const [got, want, free] = [await mixed.readFloats(), await plain.readFloats(), await next.readFloats()];
      for (let i = 0; i < got.length; i++)
        assert.equal(got[i], (redrawn[Math.floor(i / d)] ? free : want)[i], `scale ${k}, element ${i}`);
      sum?.dispose();
      sum = mixed;
    }
    for (const t of [...own, ...other, kept.redrawn_1HW1, ...kept.sums_1HWd, sum]) t?.dispose();
  });

  it('covers a cell by the positions that the cell touches', () => {
    const redrawn = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);
    assert.deepEqual([...redrawnShare(redrawn, [3, 4], [1, 1])], [2 / 12]);
    assert.deepEqual([...redrawnShare(redrawn, [3, 4], [3, 4])], [...redrawn]);
    // Two rows of cells on three rows of positions: both touch the middle one.
    assert.deepEqual([...redrawnShare(redrawn, [3, 4], [2, 2])], [0.25, 0, 0, 0.25]);
  });

  it('forces the bits of cells that mostly stay', () => {
    const schedule = parseGrids('1 2 4');
    const bits = schedule.map(([, h, w], k) => randomBits(k, h * w * 3));
    const left = Uint8Array.from({ length: 16 }, (_, i) => Number(i % 4 < 2));
    const [one, two, four] = forcedBits(bits, schedule, left);
    // Half of the single cell stays: it is kept.
    assert.deepEqual(one, bits[0]);
    for (const [grid, own, forced] of [
      [2, bits[1], two],
      [4, bits[2], four],
    ] as const)
      for (const [i, bit] of forced!.entries())
        assert.equal(bit, Math.floor(i / 3) % grid < grid / 2 ? FREE_BIT : own![i], `grid ${grid}, bit ${i}`);
    const all = forcedBits(bits, schedule, new Uint8Array(16).fill(1));
    assert.ok(all.every((scale) => scale.every((bit) => bit === FREE_BIT)));
    assert.deepEqual(forcedBits(bits, schedule, new Uint8Array(16)), bits);
  });
});
