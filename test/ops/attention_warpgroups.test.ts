import assert from 'node:assert/strict';
import type { Device } from '../../lib/device.js';
import { ownTokens, SelfAttention } from '../../lib/nn/attention.js';
import { normal } from '../../lib/nn/init.js';
import { placed } from '../../lib/nn/module.js';
import { attention } from '../../lib/ops/attention.js';
import { scope, Tensor } from '../../lib/tensor.js';
import {
  type AttentionCase,
  attentionGradientsByLoops,
  blockCausal,
  evaluate,
  type Numbers,
  tensorOf,
  valuesOf,
} from '../support/attention.js';
import { roundToBf16 } from '../support/bf16.js';
import { assertClean, CUDA, randomArray, relativeError } from '../support/numeric.js';
import { onRoute, openOnCard } from '../support/product_routes.js';

const base = { batch: 2, queries: 5, keys: 7, heads: 2, width: 8, entries: 2, scale: 0.5 };
const starts = [0, 5, 145];
const lengths = [5, 140, 33];

/** Widths of official heads and others, odd sizes, ranges of every kind. */
const cases: Record<string, AttentionCase> = {
  single: { ...base, batch: 1, entries: 1, queries: 1, keys: 1 },
  odd: { ...base, queries: 31, keys: 33, heads: 3, width: 24 },
  tiles: { ...base, queries: 140, keys: 261, width: 48 },
  causal: { ...base, queries: 130, keys: 130, width: 32, scale: 1, range: blockCausal([1, 4, 9, 16, 25, 36, 39]) },
  packed: {
    ...base,
    batch: 3,
    entries: 1,
    queries: 40,
    keys: 178,
    width: 16,
    range: (b) => [starts[b]!, starts[b]! + lengths[b]!],
  },
  scattered: { ...base, queries: 33, keys: 31, range: (b, q) => [(q * 7 + b) % 11, 12 + ((q * 5) % 20)] },
  blind: { ...base, queries: 34, keys: 9, range: (_, q) => (q % 3 === 0 ? [4, 4] : [0, q % 10]) },
  ...Object.fromEntries(
    [64, 96, 104, 112, 120, 128, 224, 256].map((width) => [
      `width ${width}`,
      { ...base, batch: 1, entries: 1, queries: 18, keys: 67, width },
    ]),
  ),
};

/** Brings every head of rows to a length. */
function withLength(values: Float64Array, width: number, length: number): Float64Array {
  const out = new Float64Array(values.length);
  for (let at = 0; at < values.length; at += width) {
    const head = values.subarray(at, at + width);
    const norm = Math.hypot(...head);
    for (const [d, x] of head.entries()) out[at + d] = (x / norm) * length;
  }
  return out;
}

/** Results beyond `results` are left out: where one key dominates, gradients are what rounding leaves. */
async function assertWithinTwice(
  device: Device,
  c: AttentionCase,
  values: readonly Float64Array[],
  results = 4,
): Promise<void> {
  const rounded = values.map((x) => x.map(roundToBf16));
  // The cotangent of `evaluate`.
  const go = randomArray(9, c.batch * c.queries * c.heads * c.width).map(roundToBf16);
  const want = attentionGradientsByLoops(rounded, go, c);
  const plain = attentionGradientsByLoops(rounded, go, c, roundToBf16);
  const got = await evaluate(device, c, 'bf16', rounded);
  for (const [i, result] of got.slice(0, results).entries()) {
    const [error, allowed] = [relativeError(result, want[i]!), 2 * relativeError(plain[i]!, want[i]!)];
    assert.ok(error <= allowed, `result ${i}: relative error ${error} above ${allowed}`);
  }
}

describe(`attention by warpgroups on ${CUDA}`, () => {
  let device: Device;
  const wayOf = (line: string): string => line.slice(line.lastIndexOf(': ') + 2);
  before(function () {
    const found = onRoute('warpgroups');
    if (typeof found === 'string') this.skip(); // there is no card of compute capability 9.0, and no emulation of one
    device = found;
  });
  after(() => device?.close());

  for (const [name, c] of Object.entries(cases))
    it(`${name}: within twice the error of the plain computation in bf16, and so are the gradients made from it`, async () => {
      const live = device.stats().liveTensors;
      await assertWithinTwice(device, c, valuesOf(c));
      const line = device.decisions().find((each) => each.startsWith(`attention ${c.batch}x${c.queries} `));
      assert.equal(wayOf(line!), 'warpgroups (asked for)');
      await assertClean(device, live);
    });

  for (const gain of [1, 10, 20, 30, 40, 100])
    it(`bounded logits are as accurate, at a gain of ${gain}, where one key dominates too`, async () => {
      const c: AttentionCase = {
        ...base,
        batch: 1,
        entries: 1,
        queries: 40,
        keys: 150,
        width: 64,
        scale: 1,
        unitKeys: true,
      };
      const row = c.heads * c.width;
      const [q, k, v] = valuesOf(c) as [Float64Array, Float64Array, Float64Array];
      const keys = withLength(k, c.width, 1);
      await assertWithinTwice(device, c, [withLength(q, c.width, gain), keys, v]);
      const near = q.map((x, i) => keys[(Math.floor(i / row) * 3 * row + (i % row)) % keys.length]! + 0.01 * x);
      await assertWithinTwice(device, c, [withLength(near, c.width, gain), keys, v], 1);
    });

  it('a query alone, in a batch and in another tile has the same bits, bounded or not', async () => {
    const c: AttentionCase = {
      ...base,
      batch: 3,
      entries: 3,
      queries: 135,
      keys: 130,
      width: 24,
      scale: 1,
      unitKeys: true,
      range: (b, q) => [(q + b) % 3, 10 + ((q * 7) % 120)],
    };
    const row = c.heads * c.width;
    const [q, k, v] = valuesOf(c) as [Float64Array, Float64Array, Float64Array];
    // Every third query is beyond the bound.
    const gained = withLength(q, c.width, 30).map((x, i) => (Math.floor(i / row) % 3 === 0 ? 2 * x : x));
    const values = [gained, withLength(k, c.width, 1), v];
    const [whole] = await evaluate(device, c, 'bf16', values);
    const sample = (x: Numbers, b: number): Float64Array =>
      Float64Array.from(x).slice((b * x.length) / 3, ((b + 1) * x.length) / 3);
    for (const b of [0, 2]) {
      const own = values.map((x) => sample(x, b));
      const one: AttentionCase = { ...c, batch: 1, entries: 1, range: (_, i) => c.range!(b, i) };
      const [o] = await evaluate(device, one, 'bf16', own);
      assert.deepEqual(Float64Array.from(o!), sample(whole!, b), `sample ${b}`);
      for (const at of [0, 64, 134]) {
        const lonely: AttentionCase = { ...one, queries: 1, range: () => c.range!(b, at) };
        const [alone] = await evaluate(device, lonely, 'bf16', [
          own[0]!.slice(at * row, (at + 1) * row),
          own[1]!,
          own[2]!,
        ]);
        assert.deepEqual(Float64Array.from(alone!), sample(whole!, b).slice(at * row, (at + 1) * row), `query ${at}`);
      }
    }
  });

  it('pieces of many keys give the same bits whoever merges them', async () => {
    const live = device.stats().liveTensors;
    const [batch, keys, width] = [3, 2100, 8];
    // The emulated card has four processors: one sample leaves half of them idle, three do not.
    const [q, k, v] = [4, keys, keys].map((n, i) => randomArray(i + 1, batch * n * width, 2));
    const attend = async (samples: number): Promise<Numbers> => {
      const o = scope(() => {
        const [x, y, z] = [q!, k!, v!].map((values) => {
          const n = values.length / batch / width;
          return tensorOf(values.slice(0, samples * n * width), [samples, n, width], 'bf16', device);
        });
        return attention(x!, y!, z!, { heads: 1, scale: 0.5 });
      });
      const values = await o.readFloats();
      o.dispose();
      return values;
    };
    const before = device.stats().launches;
    const alone = await attend(1);
    const withMerge = device.stats().launches;
    const together = await attend(batch);
    if (CUDA.includes('emulated'))
      assert.deepEqual([withMerge - before, device.stats().launches - withMerge], [2, 1], 'launches');
    assert.deepEqual(alone, together.slice(0, alone.length));
    await assertClean(device, live);
  });

  it('reads the rows of a cache where they lie, to the bit, and nothing else', async () => {
    const live = device.stats().liveTensors;
    const [batch, queries, keys, heads, width, sampleStride] = [3, 33, 37, 2, 72, 41];
    const C = heads * width;
    const rows = (batch - 1) * sampleStride + 64;
    const dense = [1, 2].map((seed) => randomArray(seed, batch * keys * C));
    const q = tensorOf(randomArray(3, batch * queries * C), [batch, queries, C], 'bf16', device);
    const [k, v] = dense.map((values) => tensorOf(values, [batch, keys, C], 'bf16', device)) as [Tensor, Tensor];
    // What is not to be read would show.
    const [kRows, vRows] = dense.map((values) => {
      const all = new Float64Array(rows * C).fill(Number.NaN);
      for (let b = 0; b < batch; b++) all.set(values.subarray(b * keys * C, (b + 1) * keys * C), b * sampleStride * C);
      return tensorOf(all, [1, rows, C], 'bf16', device);
    }) as [Tensor, Tensor];
    const range = Tensor.from(Int32Array.from([0, keys]), [1, 1, 2], 'i32', device);
    const want = attention(q, k, v, { heads, scale: 0.5 });
    const got = attention(q, kRows, vRows, { heads, scale: 0.5, sampleStride, range });
    assert.deepEqual(await got.read(), await want.read());
    for (const t of [q, k, v, kRows, vRows, range, want, got]) t.dispose();
    await assertClean(device, live);
  });

  it('is told by cosine attention, and by no other, that keys have length 1', async () => {
    const own = onRoute('warpgroups') as Device;
    const [C, heads, L] = [48, 2, 7];
    for (const cosine of [true, false]) {
      const layer = placed({ device: own, dtype: 'bf16' }, () => {
        return new SelfAttention(C, heads, { init: normal(0.5), projInit: normal(0.5), cosine, tau: 1 });
      }).initialize(1);
      const y = scope(() => {
        const rope = Tensor.from(new Float32Array((L * C) / heads).fill(0.5), [L, C / heads / 2, 2], 'f32', own);
        const range = Tensor.from(Int32Array.from([0, L]), [1, 1, 2], 'i32', own);
        const x = tensorOf(randomArray(1, L * C), [1, L, C], 'bf16', own);
        return layer.forward(x, { rope, ropeStart: 0, memory: ownTokens(range) }).input;
      });
      await y.read();
      const line = own
        .decisions()
        .filter((each) => each.startsWith('attention'))
        .at(-1)!;
      assert.equal(line.includes('unit keys'), cosine, line);
    }
    own.close();
  });

  it('leaves to fragments what it cannot take, and says so', async () => {
    const before = device.decisions().length;
    const shapes: AttentionCase[] = [
      { ...base, width: 20 },
      { ...base, bias: randomArray(7, base.heads * base.queries * base.keys) },
      { ...base, scale: -1 },
    ];
    for (const c of shapes) await assertWithinTwice(device, c, valuesOf(c));
    assert.deepEqual(device.decisions().slice(before), [
      'attention 2x5 of up to 8, 2 heads of 20, bf16, not aligned: fragments (not for warpgroups)',
      'attention 2x5 of up to 8, 2 heads of 8, bf16, bias: fragments (not for warpgroups)',
      'attention 2x5 of up to 8, 2 heads of 8, bf16, scale not positive: fragments (not for warpgroups)',
    ]);
  });

  it('a range that leaves the rows of k is told', async () => {
    const own = onRoute('warpgroups') as Device;
    const q = tensorOf(randomArray(1, 24), [1, 3, 8], 'bf16', own);
    const range = Tensor.from(new Int32Array([0, 4]), [1, 1, 2], 'i32', own);
    const o = attention(q, q, q, { heads: 1, scale: 1, range });
    await assert.rejects(o.read(), { code: 'INVALID_ARGUMENT' });
    own.close();
  });

  it('is measured against fragments where the device need not be deterministic', async () => {
    const variables = { SIMT_ARCHITECTURE: '90', SIMT_FASTEST: 'warpgroups' };
    const own = openOnCard({ deterministic: false }, variables);
    await assertWithinTwice(own, { ...base, queries: 20, keys: 30 }, valuesOf({ ...base, queries: 20, keys: 30 }));
    const [line] = own.decisions();
    assert.match(line!, /^attention 2x20 of up to 32, 2 heads of 8, bf16: \w+ \(fragments .* ms, warpgroups .* ms\)$/);
    own.close();
    const byRule = openOnCard({}, variables);
    await assertWithinTwice(byRule, base, valuesOf(base));
    assert.deepEqual(byRule.decisions(), ['attention 2x5 of up to 8, 2 heads of 8, bf16: fragments (by rule)']);
    byRule.close();
  });
});
