import assert from 'node:assert/strict';
import fc from 'fast-check';
import { Device } from '../../lib/device.js';
import { Tensor } from '../../lib/tensor.js';
import { integerLabels, mapOfTokens, splitScales, sumOfBits, tokensOfMap } from '../../lib/tokenizer/bit_tokens.js';
import { MultiScaleQuantizer } from '../../lib/tokenizer/quantizer.js';
import { parseGrids } from '../../lib/tokenizer/schedule.js';
import { assertClean, random, relativeError } from '../support/numeric.js';

describe('bit tokens', () => {
  const device = Device.default();
  let live = 0;
  beforeEach(() => {
    live = device.stats().liveTensors;
  });
  afterEach(() => assertClean(device, live));

  it('a map becomes tokens in raster order and comes back', async () => {
    for (const patchify of [false, true]) {
      const map = random(device, 1, [2, 4, 6, 3]);
      const tokens = tokensOfMap(map, patchify);
      const back = mapOfTokens(tokens, patchify ? [2, 3] : [4, 6], patchify);
      assert.deepEqual(tokens.shape, patchify ? [2, 6, 12] : [2, 24, 3]);
      assert.deepEqual(back.shape, map.shape);
      const values = await map.read();
      assert.deepEqual(await back.read(), values);
      // Token 1 of image 0: position (0, 1), or with patchify the block at rows 0, 1 and columns 2, 3.
      const got = await tokens.read();
      if (patchify) for (const c of [0, 1, 2]) assert.equal(got[12 + 4 * c + 3], values[(6 + 3) * 3 + c]);
      else assert.deepEqual(got.slice(3, 6), values.slice(3, 6));
      for (const t of [map, tokens, back]) t.dispose();
    }
  });

  it('splits tokens into scales', async () => {
    const tokens = random(device, 2, [2, 14, 5]);
    const parts = splitScales(tokens, parseGrids('1 2 3'));
    assert.deepEqual(
      parts.map((t) => t.shape),
      [
        [2, 1, 1, 5],
        [2, 2, 2, 5],
        [2, 3, 3, 5],
      ],
    );
    const all = await tokens.read();
    assert.deepEqual(await parts[1]!.read(), Float32Array.from([...all.slice(5, 25), ...all.slice(75, 95)]));
    assert.throws(() => splitScales(tokens, parseGrids('1 2')), { code: 'INVALID_ARGUMENT' });
    for (const t of [tokens, ...parts]) t.dispose();
  });

  it('bits give back the sum that the quantiser made', async () => {
    const schedule = parseGrids('1 2 3 5');
    const features = random(device, 3, [2, 5, 5, 14]);
    const { quantized, bits } = new MultiScaleQuantizer({ codebookDim: 14 }).quantize(features, schedule);
    const sum = sumOfBits(bits, schedule);
    assert.ok(relativeError(await sum.read(), await quantized.read()) < 1e-6);
    assert.throws(() => sumOfBits([], schedule), { code: 'INVALID_ARGUMENT' });
    for (const t of [features, quantized, sum, ...bits]) t.dispose();
  });

  it('integer labels put channel 0 first', () => {
    assert.deepEqual(integerLabels(Uint8Array.from([1, 0, 0, 0, 1, 1]), 3), BigInt64Array.from([4n, 3n]));
    fc.assert(
      fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), (value) => {
        const bits = Uint8Array.from({ length: 64 }, (_, j) =>
          Number((BigInt.asUintN(64, value) >> BigInt(63 - j)) & 1n),
        );
        assert.deepEqual(integerLabels(bits, 64), BigInt64Array.from([value]));
      }),
    );
  });

  it('a patched token is the block of its four positions', async () => {
    const map = Tensor.from([1, 2, 3, 4], [1, 2, 2, 1], 'f32', device);
    const tokens = tokensOfMap(map, true);
    assert.deepEqual([...(await tokens.read())], [1, 2, 3, 4]);
    map.dispose();
    tokens.dispose();
  });
});
