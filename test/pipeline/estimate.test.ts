import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Device } from '../../lib/device.js';
import { type EstimateOptions, type Image, InfinityPipeline } from '../../lib/index.js';
import { writeCheckpoint } from '../../lib/io/checkpoint.js';
import { parseGrids } from '../../lib/tokenizer/schedule.js';
import { randomCheckpoint } from '../../scripts/random_checkpoint.js';
import { tinyCheckpoint } from '../support/tiny_checkpoint.js';

const MIB = 2 ** 20;
const prompt = 'a red circle above a blue square';

/** Some 25 million parameters with the layers of the released models: 512 wide, four blocks, the official decoder in narrow, at 128 x 128. */
const MIDDLE = {
  transformer: {
    embed_dim: 512,
    depth: 4,
    num_heads: 8,
    block_chunks: 2,
    text_channels: 512,
    text_maxlen: 64,
    vae_embed_dim: 16,
    scale_schedules: [parseGrids('1 2 4 8')],
  },
  vae: {
    codebook_dim: 16,
    base_ch: 32,
    encoder_ch_mult: [1, 2, 4, 4, 4],
    decoder_ch_mult: [1, 2, 4, 4, 4],
    num_res_blocks: 2,
    patch_size: 16,
  },
  textEncoder: { d_model: 512, d_kv: 64, num_heads: 4, d_ff: 512, num_layers: 2 },
};

describe('estimate', () => {
  let tiny: Awaited<ReturnType<typeof tinyCheckpoint>>;
  let folder: string;
  let middle: string;
  before(async function () {
    this.timeout(30_000);
    tiny = await tinyCheckpoint();
    folder = await mkdtemp(join(tmpdir(), 'estimate-'));
    middle = join(folder, 'middle');
    await writeCheckpoint(middle, randomCheckpoint({ ...MIDDLE, seed: 1 }));
  });
  after(async () => {
    await tiny?.remove();
    if (folder) await rm(folder, { recursive: true });
  });

  const device = () => Device.default();
  /** Peaks of loading and of drawing once, above what was alive before. */
  async function measured(directory: string, options: EstimateOptions) {
    const { dtype, offload, tile, ...request } = options;
    await device().sync();
    device().trim();
    const before = device().resetPeak().liveBytes;
    const pipe = await InfinityPipeline.fromPretrained(directory, { dtype, offload, tile });
    const load = device().resetPeak().peakBytes - before;
    const { images } = await pipe.generate(prompt, { ...request, seed: 1 });
    const peak = Math.max(load, device().stats().peakBytes - before);
    await pipe.dispose();
    return { load, peak, images };
  }

  const cases: readonly (readonly [options: EstimateOptions, size: readonly [number, number]])[] = [
    [{}, [8, 16]],
    [{ count: 2, guidance: 1 }, [16, 16]],
    [{ dtype: 'bf16', tile: true }, [16, 16]],
    [{ tile: true }, [128, 128]],
    [{ dtype: 'bf16', offload: true }, [128, 128]],
  ];
  for (const [options, size] of cases)
    it(`tells the peak of ${JSON.stringify(options)} at ${size.join(' x ')} within 2 %`, async function () {
      this.timeout(30_000);
      const directory = size[0] === 128 ? middle : tiny.directory;
      const request = { ...options, size };
      const told = await InfinityPipeline.estimate(directory, { ...request, prompt });
      const { load, peak } = await measured(directory, request);
      assert.ok(Math.abs(told.peakBytes - peak) <= 0.02 * peak, `${told.peakBytes} told, ${peak} measured`);
      assert.ok(Math.abs(told.loadBytes - load) <= 0.02 * load, `${told.loadBytes} told, ${load} measured, loading`);
    });

  it('adds up, saves with bf16 and offload, and reads no weight', async () => {
    const f32 = await InfinityPipeline.estimate(middle, { size: [128, 128] });
    assert.deepEqual(
      f32.stages.map(({ stage }) => stage),
      ['text_encoder', 'transformer', 'vae'],
    );
    assert.equal(
      f32.weightBytes,
      f32.stages.reduce((sum, { weightBytes }) => sum + weightBytes, 0),
    );
    // Keys and values of 1 + 4 + 16 of 85 tokens in four blocks, and of the last 64 in one; twice for guidance.
    assert.equal(f32.cacheBytes, 2 * 2 * (4 * 21 + 64) * 512 * 4);
    // Every token passes every matrix of a block once: 16 C² multiply-adds with a text of few rows.
    const transformer = f32.stages[1]!;
    const blocks = 2 * 85 * 4 * (3 + 1 + 2 + 8) * 512 * 512;
    assert.ok(
      transformer.multiplyAdds > blocks && transformer.multiplyAdds < 1.2 * blocks,
      String(transformer.multiplyAdds / blocks),
    );
    const bf16 = await InfinityPipeline.estimate(middle, { size: [128, 128], dtype: 'bf16' });
    assert.ok(bf16.weightBytes < 0.6 * f32.weightBytes);
    const offloaded = await InfinityPipeline.estimate(middle, { size: [128, 128], offload: true });
    assert.ok(offloaded.peakBytes < 0.75 * f32.peakBytes, `${offloaded.peakBytes} of ${f32.peakBytes}`);
    assert.ok(
      offloaded.peakBytes <
        1.02 * Math.max(offloaded.loadBytes, ...f32.stages.map((s) => s.weightBytes + s.activationBytes)),
    );
  });

  it('refuses what generate refuses', async () => {
    await assert.rejects(InfinityPipeline.estimate(tiny.directory, { size: [7, 7] }), { code: 'UNSUPPORTED_SIZE' });
    await assert.rejects(InfinityPipeline.estimate(join(folder, 'none')), { code: 'MODEL_NOT_FOUND' });
    await assert.rejects(InfinityPipeline.estimate(tiny.directory, { scales: 1 } as object), {
      code: 'INVALID_ARGUMENT',
    });
  });

  it('holds no f32 copy of a network that is kept in bf16, and stays near the f32 picture', async function () {
    this.timeout(30_000);
    const { weightBytes } = await InfinityPipeline.estimate(middle, { dtype: 'bf16' });
    const { load, images } = await measured(middle, { dtype: 'bf16', guidance: 1, size: [128, 128] });
    // The largest tensor in f32 and its copy on the way are what the bound has to allow for in a network of this size.
    assert.ok(load < 1.1 * weightBytes, `${load} bytes for ${weightBytes} of weights`);
    const f32 = await measured(middle, { guidance: 1, size: [128, 128] });
    const difference = (a: Image, b: Image) =>
      a.data.reduce((sum, v, i) => sum + Math.abs(v - b.data[i]!), 0) / a.data.length;
    assert.ok(difference(images[0]!, f32.images[0]!) < 2, String(difference(images[0]!, f32.images[0]!)));
    globalThis.gc?.();
    const rss = process.memoryUsage().rss;
    const pipe = await InfinityPipeline.fromPretrained(middle, { dtype: 'bf16' });
    const grown = process.memoryUsage().rss - rss;
    await pipe.dispose();
    assert.ok(grown < weightBytes + 64 * MIB, `the process grew by ${Math.round(grown / MIB)} MiB`);
  });
});
