import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { attention, type QkvPrepOptions, qkvPrep } from '../../lib/ops/attention.js';
import { cat } from '../../lib/ops/shape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { type ScaleSchedule, scaleTokens } from '../../lib/tokenizer/schedule.js';
import { KvCache, kvElements, kvExtents } from '../../lib/transformer/kv_cache.js';
import { randomArray } from '../support/numeric.js';

const heads = 2;
const width = 32;
const square = (...sides: number[]): ScaleSchedule => sides.map((n) => [1, n, n] as const);

/** Schedules, and the samples that run at every scale. */
const cases: Record<string, { schedule: ScaleSchedule; samples: number[] }> = {
  'a usual schedule': { schedule: square(1, 2, 3, 4), samples: [4, 4, 4, 4] },
  'a last scale longer than two blocks': { schedule: square(1, 2, 5), samples: [2, 2, 2] },
  'samples that stop': { schedule: square(1, 2, 3, 4), samples: [4, 4, 2, 2] },
  'one scale': { schedule: square(1), samples: [3] },
};

describe('the key-value cache', () => {
  let device: Device;
  before(() => {
    device = Device.create('cpu', { threads: 2 });
  });
  after(() => device.close());

  for (const [name, { schedule, samples }] of Object.entries(cases))
    it(`${name}: every block sees what it was given at all scales so far, to the bit`, async () => {
      const blocks = 3;
      const live = device.stats();
      const extents = kvExtents({ depth: blocks, embed_dim: width }, schedule);
      const cache = new KvCache({ ...extents, rows: samples[0]! }, { device, dtype: 'f32' });
      const bytes = samples[0]! * kvElements(extents) * 4;
      const taken = device.stats().liveBytes - live.liveBytes;
      // Memory comes in eight sizes for each power of two.
      assert.ok(bytes <= taken && taken <= 1.125 * bytes, `${taken} taken for ${bytes}`);
      const options: QkvPrepOptions = { heads, gain: null, rope: null, ropeStart: 0, cosine: true };
      const past: [k: Tensor, v: Tensor][] = [];
      let start = 0;
      for (const [scale, B] of samples.entries()) {
        const L = scaleTokens(schedule[scale]!);
        for (let i = 0; i < blocks; i++) {
          const { want, got, k, v } = scope(() => {
            const qkv = Tensor.from(
              randomArray(scale * blocks + i, B * L * 3 * width),
              [B, L, 3 * width],
              'f32',
              device,
            );
            const [q, kNew, vNew] = qkvPrep(qkv, options);
            const all = (fresh: Tensor, before?: Tensor): Tensor =>
              before ? cat([before.view([B, start, width]), fresh], 1) : fresh;
            const [k, v] = [all(kNew, past[i]?.[0]), all(vNew, past[i]?.[1])];
            const seen = cache.memory(i, start).append(qkv, options);
            const got = attention(seen.q_BLC, seen.k_BLC, seen.v_BLC, { heads, scale: 1, ...seen });
            return { want: attention(q, k, v, { heads, scale: 1 }), got, k, v };
          });
          assert.deepEqual(await got.read(), await want.read(), `scale ${scale}, block ${i}`);
          for (const t of [want, got, ...(past[i] ?? [])]) t.dispose();
          past[i] = [k, v];
        }
        start += L;
      }
      for (const t of past.flat()) t.dispose();
      cache.dispose();
      assert.equal(device.stats().liveTensors, live.liveTensors);
    });

  it('leaves nothing behind where memory is short', () => {
    const memoryLimit = 2 ** 20;
    const small = Device.create('cpu', { threads: 1, memoryLimit });
    const rows = 5;
    const extents = kvExtents({ depth: 4, embed_dim: 256 }, square(1, 4, 8));
    const bytes = rows * kvElements(extents) * 4;
    assert.ok(bytes / 2 < memoryLimit && memoryLimit < bytes, 'keys fit, values do not');
    assert.throws(() => new KvCache({ ...extents, rows }, { device: small, dtype: 'f32' }), { code: 'OUT_OF_MEMORY' });
    assert.equal(small.stats().liveTensors, 0);
    small.close();
  });
});
