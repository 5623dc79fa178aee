import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import { attention } from '../../lib/ops/attention.js';
import { Tape } from '../../lib/tape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import {
  type AttentionCase,
  attentionByLoops,
  attentionGradientsByLoops,
  blockCausal,
  evaluate,
  type Numbers,
  rangeTensor,
  shapesOf,
  tensorOf,
  valuesOf,
} from '../support/attention.js';
import { roundToBf16 } from '../support/bf16.js';
import {
  assertClean,
  assertGradients,
  isaDevices,
  random,
  randomArray,
  referenceOf,
  relativeError,
} from '../support/numeric.js';

const scales = [1, 4, 9, 16, 25, 36, 39];
const base = { batch: 2, queries: 5, keys: 7, heads: 2, width: 8, entries: 2, scale: 0.5 };

/** Cases of awkward sizes; packed: all samples read one buffer, each its own stretch of it. */
const cases: Record<string, AttentionCase> = {
  single: { ...base, batch: 1, entries: 1, queries: 1, keys: 1, width: 2 },
  odd: { ...base, queries: 31, keys: 33, heads: 3, width: 10 },
  tiles: { ...base, queries: 65, keys: 261, width: 48 },
  wide: { ...base, queries: 3, keys: 129, width: 130 },
  causal: { ...base, queries: 130, keys: 130, width: 32, scale: 1, range: blockCausal(scales) },
  packed: {
    ...base,
    batch: 3,
    entries: 1,
    queries: 9,
    keys: 40,
    range: (b) =>
      [
        [0, 3],
        [3, 36],
        [36, 40],
      ][b]! as [number, number],
  },
  scattered: { ...base, queries: 33, keys: 31, range: (b, q) => [(q * 7 + b) % 11, 12 + ((q * 5) % 20)] },
  blind: { ...base, queries: 34, keys: 9, range: (_, q) => (q % 3 === 0 ? [4, 4] : [0, q % 10]) },
};
for (const [isa, device] of isaDevices()) {
  describe(`attention on ${isa}`, () => {
    for (const [name, c] of Object.entries(cases)) {
      it(`${name}: f64 follows the definition, f32 follows f64, gradients included`, async () => {
        const live = device.stats().liveTensors;
        const biased = { ...c, bias: randomArray(7, c.heads * c.queries * c.keys) };
        for (const variant of [c, biased]) {
          const values = valuesOf(variant);
          const want = await evaluate(referenceOf(device), variant, 'f64', values);
          assert.ok(relativeError(want[0]!, attentionByLoops(values[0]!, values[1]!, values[2]!, variant)) < 1e-12);
          const got = await evaluate(device, variant, 'f32', values);
          for (const [i, result] of got.entries()) {
            const error = relativeError(result, want[i]!);
            assert.ok(error <= 8e-6, `result ${i}: relative error ${error}`);
          }
        }
        await assertClean(device, live);
      });
    }

    it('gradients equal finite differences, with bias, shared keys and queries that see nothing', async () => {
      const small: AttentionCase[] = [
        { ...base, queries: 3, keys: 4, width: 3 },
        { ...base, queries: 4, keys: 5, width: 2, range: (b, q) => [q % 2, q === 3 ? 0 : 3 + b] },
        { ...base, entries: 1, queries: 2, keys: 5, width: 2, range: (b) => [b * 2, 3 + b * 2] },
      ];
      for (const c of small) {
        const ranges = new Map([device, referenceOf(device)].map((on) => [on, rangeTensor(on, c)]));
        const plain = (q: Tensor, k: Tensor, v: Tensor, bias: Tensor | null = null): Tensor =>
          attention(q, k, v, { ...c, range: ranges.get(q.device)!, bias });
        await assertGradients(device, plain, shapesOf(c));
        await assertGradients(device, plain, [...shapesOf(c), [c.heads, c.queries, c.keys]]);
        for (const range of ranges.values()) range?.dispose();
      }
    });

    it('reads the rows of a cache where they lie, to the bit', async () => {
      const live = device.stats().liveTensors;
      const [batch, queries, keys, heads, width, sampleStride] = [3, 33, 37, 2, 32, 41];
      const C = heads * width;
      const rows = (batch - 1) * sampleStride + keys;
      const dense = [1, 2].map((seed) => randomArray(seed, batch * keys * C));
      // What is not to be read would show.
      const cache = dense.map((values) => {
        const all = new Float64Array(rows * C).fill(Number.NaN);
        for (let b = 0; b < batch; b++)
          all.set(values.subarray(b * keys * C, (b + 1) * keys * C), b * sampleStride * C);
        return all;
      });
      for (const dtype of device.kind === 'cuda' ? (['f32', 'bf16'] as const) : (['f32', 'f64'] as const)) {
        const q = tensorOf(randomArray(3, batch * queries * C), [batch, queries, C], dtype, device);
        const [k, v] = dense.map((values) => tensorOf(values, [batch, keys, C], dtype, device)) as [Tensor, Tensor];
        const [kRows, vRows] = cache.map((values) => tensorOf(values, [1, rows, C], dtype, device)) as [Tensor, Tensor];
        const want = attention(q, k, v, { heads, scale: 0.5 });
        const got = attention(q, kRows, vRows, { heads, scale: 0.5, sampleStride });
        assert.deepEqual(await got.read(), await want.read());
        const refused = (stride: number) =>
          assert.throws(() => attention(q, kRows, vRows, { heads, scale: 1, sampleStride: stride }), {
            code: 'INVALID_ARGUMENT',
            message: /sampleStride/,
          });
        refused(0.5);
        refused(rows);
        const recorded = () =>
          new Tape().watch(q).run(() => attention(q, kRows, vRows, { heads, scale: 1, sampleStride }));
        assert.throws(recorded, { code: 'NOT_DIFFERENTIABLE' });
        for (const t of [q, k, v, kRows, vRows, want, got]) t.dispose();
      }
      await assertClean(device, live);
    });

    const narrow: Record<string, AttentionCase> = {
      ...cases,
      ...Object.fromEntries(
        [64, 96, 104, 112, 120, 128, 224, 256].map((width) => [
          `width ${width}`,
          { ...base, batch: 1, entries: 1, queries: 18, keys: 67, width },
        ]),
      ),
    };
    // Processors attend in f32 and f64.
    for (const [name, c] of Object.entries(device.kind === 'cuda' ? narrow : {}))
      it(`${name}: bf16 stays within twice the error of the plain computation in bf16`, async () => {
        for (const variant of [c, { ...c, bias: randomArray(7, c.heads * c.queries * c.keys).map(roundToBf16) }]) {
          const values = valuesOf(variant).map((x) => x.map(roundToBf16));
          const go = randomArray(9, c.batch * c.queries * c.heads * c.width).map(roundToBf16);
          const want = attentionGradientsByLoops(values, go, variant);
          const plain = attentionGradientsByLoops(values, go, variant, roundToBf16);
          const got = await evaluate(device, variant, 'bf16', values);
          for (const [i, result] of got.entries()) {
            const [error, allowed] = [relativeError(result, want[i]!), 2 * relativeError(plain[i]!, want[i]!)];
            assert.ok(error <= allowed, `result ${i}: relative error ${error} above ${allowed}`);
          }
        }
      });

    it('large scores neither overflow nor lose the softmax', async () => {
      const c = { ...base, queries: 9, keys: 40, scale: 100 };
      const values = valuesOf(c);
      const want = attentionByLoops(values[0]!, values[1]!, values[2]!, c);
      const [got] = await evaluate(device, c, 'f32', values);
      assert.ok(relativeError(got!, want) < 1e-3);
    });

    for (const dtype of device.kind === 'cuda' ? (['f32', 'bf16'] as const) : (['f32'] as const)) {
      it(`${dtype}: a query alone, in a batch of eight, in another tile and with one thread has the same bits`, async () => {
        const c: AttentionCase = {
          ...base,
          batch: 8,
          entries: 8,
          queries: 130,
          keys: 130,
          width: 24,
          range: blockCausal(scales),
        };
        const values = valuesOf(c);
        const whole = await evaluate(device, c, dtype, values);
        if (device.kind === 'cpu') {
          const single = Device.create('cpu', { isa, threads: 1 });
          assert.deepEqual(await evaluate(single, c, dtype, values), whole, 'threads');
          single.close();
        }
        const row = c.heads * c.width;
        const sample = (v: Numbers, b: number): Float64Array =>
          Float64Array.from(v.slice(b * 130 * row, (b + 1) * 130 * row));
        const one = { ...c, batch: 1, entries: 1 };
        const b = 5;
        const [o] = await evaluate(
          device,
          one,
          dtype,
          values.map((v) => sample(v, b)),
        );
        assert.deepEqual(Float64Array.from(o!), sample(whole[0]!, b), 'batch');
        for (const at of [0, 4, 63, 129]) {
          const lonely: AttentionCase = { ...one, queries: 1, range: () => c.range!(0, at) };
          const [q, k, v] = values.map((x) => sample(x, b));
          const [alone] = await evaluate(device, lonely, dtype, [q!.slice(at * row, (at + 1) * row), k!, v!]);
          assert.deepEqual(
            Float64Array.from(alone!),
            sample(whole[0]!, b).slice(at * row, (at + 1) * row),
            `query ${at}`,
          );
        }
      });

      it(`${dtype}: packed keys give the bits of separate calls, wherever they lie; a longer cache changes nothing`, async () => {
        const lengths = [5, 140, 33];
        const starts = [0, 5, 145];
        const c: AttentionCase = {
          ...base,
          batch: 3,
          entries: 1,
          queries: 40,
          keys: 178,
          width: 16,
          range: (b) => [starts[b]!, starts[b]! + lengths[b]!],
        };
        const values = valuesOf(c);
        const [together] = await evaluate(device, c, dtype, values);
        const row = c.heads * c.width;
        for (const [b, n] of lengths.entries()) {
          const rows = (v: Float64Array): Float64Array => v.slice(starts[b]! * row, (starts[b]! + n) * row);
          const own: AttentionCase = { ...c, batch: 1, keys: n, range: undefined };
          const q = values[0]!.slice(b * 40 * row, (b + 1) * 40 * row);
          const [alone] = await evaluate(device, own, dtype, [q, rows(values[1]!), rows(values[2]!)]);
          assert.deepEqual(alone, together!.slice(b * 40 * row, (b + 1) * 40 * row), `sample ${b}`);
        }
      });
    }

    // A card takes 16, 32, 64 or 128 rows a block by how many it has to fill; the emulated one has 4 processors.
    for (const dtype of device.kind === 'cuda' ? (['f32', 'bf16'] as const) : [])
      for (const width of [32, 64, 96, 112, 128, 224, 256])
        it(`${dtype}: blocks of few rows, whose warps work together, give the bits of large ones at width ${width}`, async () => {
          const live = device.stats().liveTensors;
          const [batch, queries, keys] = [4, 130, 75];
          const [q, k, v] = [queries, keys, keys].map((n, i) => randomArray(i + 1, batch * n * width, 2));
          const ranges = Array.from({ length: queries }, (_, i) => [i % 3, i % 7 === 0 ? i % 3 : 8 + ((i * 5) % 68)]);
          const evaluateRows = async (samples: number, rows: number): Promise<Numbers> => {
            const tensors = [
              tensorOf(q!.slice(0, samples * rows * width), [samples, rows, width], dtype, device),
              ...[k!, v!].map((x) =>
                tensorOf(x.slice(0, samples * keys * width), [samples, keys, width], dtype, device),
              ),
            ] as [Tensor, Tensor, Tensor];
            const range = Tensor.from(Int32Array.from(ranges.slice(0, rows).flat()), [1, rows, 2], 'i32', device);
            const o = attention(...tensors, { heads: 1, scale: 0.5, range });
            const values = await o.readFloats();
            for (const t of [...tensors, range, o]) t.dispose();
            return values;
          };
          const whole = await evaluateRows(batch, queries);
          for (const rows of [1, 17, 40, 120, 130])
            assert.deepEqual(await evaluateRows(1, rows), whole.slice(0, rows * width), `${rows} rows`);
          await assertClean(device, live);
        });

    it('a query that sees no key gets zeros and gives no gradient', async () => {
      const c: AttentionCase = { ...base, range: () => [3, 3] };
      for (const result of await evaluate(device, c, 'f32', valuesOf(c))) assert.ok(result.every((x) => x === 0));
    });

    it('refuses shapes and ranges that do not fit', async () => {
      const live = device.stats().liveTensors;
      const refused = (fn: () => unknown): void =>
        assert.throws(fn, (e: unknown) => e instanceof InfinityError && e.code === 'INVALID_SHAPE');
      scope(() => {
        const [q, k] = [random(device, 1, [2, 3, 8]), random(device, 2, [2, 5, 8])];
        const range = Tensor.from(new Int32Array(12), [3, 2, 2], 'i32', device);
        refused(() => attention(q, k, q, { heads: 2, scale: 1 }));
        refused(() => attention(q, k, k, { heads: 3, scale: 1 }));
        refused(() => attention(q, random(device, 2, [3, 5, 8]), random(device, 2, [3, 5, 8]), { heads: 2, scale: 1 }));
        refused(() => attention(q, k, k, { heads: 2, scale: 1, range }));
        refused(() => attention(q, k, k, { heads: 2, scale: 1, bias: random(device, 3, [2, 3, 4]) }));
      });
      const own = device.kind === 'cuda' ? Device.create('cuda') : Device.create('cpu', { isa, threads: 1 });
      const [q, range] = [random(own, 1, [1, 2, 4]), Tensor.from(new Int32Array([0, 3]), [1, 1, 2], 'i32', own)];
      const o = attention(q, q, q, { heads: 1, scale: 1, range });
      await assert.rejects(o.read(), (e: unknown) => e instanceof InfinityError && e.code === 'INVALID_ARGUMENT');
      own.close();
      await assertClean(device, live);
    });
  });
}
