import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { Tensor } from '../../lib/tensor.js';
import { type InfinityConfig, officialInfinityConfig } from '../../lib/transformer/config.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { sampleScales } from '../../lib/transformer/sampler.js';

const CONFIG: InfinityConfig = officialInfinityConfig('infinity_layer12', {
  embed_dim: 32,
  depth: 2,
  num_heads: 2,
  block_chunks: 1,
  text_channels: 128,
  text_maxlen: 40,
  vae_embed_dim: 8,
  scale_schedules: [
    [
      [1, 1, 1],
      [1, 2, 2],
      [1, 4, 4],
    ],
  ],
});
const schedule = CONFIG.scale_schedules![0]!;

/** Guided bits of a prompt of `rows` rows, the scales one after the other. */
async function draw(model: InfinityTransformer, rows: number): Promise<number[]> {
  using kv_NCt = Tensor.from(
    Float32Array.from({ length: rows * 128 }, (_, i) => Math.sin(i)),
    [rows, 128],
  );
  const drawn: number[] = [];
  const text = { kv_NCt, lens: [rows] };
  for await (const { bits } of sampleScales(model, { text, schedule, images: [{ seed: 5, image: 0 }], guidance: 3 }))
    drawn.push(...(await bits.read()));
  await Device.default().sync();
  return drawn;
}

const live = (): number => Device.default().stats().liveTensors;
const frozen = (seed: number): InfinityTransformer => new InfinityTransformer(CONFIG).initialize(seed).freeze();

describe('learned text of a network', () => {
  it('is projected once for prompts of every length, and changes no bit', async () => {
    using kept = frozen(3);
    for (const rows of [3, 16, 5, 17, 40, 2]) {
      using fresh = frozen(3);
      assert.deepEqual(await draw(kept, rows), await draw(fresh, rows), `${rows} rows`);
    }
    const before = live();
    await draw(kept, 33);
    assert.equal(live(), before);
    // Keys and values for pooling and for each block.
    using rotary = frozen(3);
    rotary.rope(schedule);
    const without = live();
    await draw(rotary, 4);
    assert.equal(live() - without, 2 * (1 + CONFIG.depth));
  });

  it('is not kept while weights may change', async () => {
    using trained = new InfinityTransformer(CONFIG).initialize(3);
    trained.rope(schedule);
    const before = live();
    const first = await draw(trained, 4);
    assert.equal(live(), before);
    trained.initialize(4);
    assert.notDeepEqual(await draw(trained, 4), first);
  });

  it('is projected anew from weights that were loaded again', async () => {
    const before = live();
    const model = frozen(3);
    await draw(model, 4);
    model.unload();
    model.initialize(4).freeze();
    {
      using fresh = frozen(4);
      assert.deepEqual(await draw(model, 4), await draw(fresh, 4));
    }
    model.dispose();
    assert.equal(live(), before);
  });

  it('goes with its network', async () => {
    const before = live();
    {
      using model = frozen(3);
      await draw(model, 4);
    }
    assert.equal(live(), before);
  });
});
