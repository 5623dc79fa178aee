import assert from 'node:assert/strict';
import { placed } from '../../lib/nn/module.js';
import { disposeStream, type Stream } from '../../lib/nn/stream.js';
import { Op } from '../../lib/ops/generated.js';
import { scope, Tensor } from '../../lib/tensor.js';
import type { BlockCondition } from '../../lib/transformer/block.js';
import { tensorsOf } from '../../lib/transformer/conditions.js';
import { parseInfinityConfig } from '../../lib/transformer/config.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { KvCache, kvExtents } from '../../lib/transformer/kv_cache.js';
import { countCommands } from '../support/commands.js';
import { CUDA, isaDevice, randomArray } from '../support/numeric.js';

const NAMES = new Map<number, string>(Object.values(Op).map(({ id, name }) => [id, name]));
const named = (counts: ReadonlyMap<number, number>) =>
  Object.fromEntries([...counts].map(([id, n]) => [NAMES.get(id)!, n] as const).sort());

describe('commands of a frozen block on a card', () => {
  it('are products and attention: everything else, norms among it, is in an epilogue', async function () {
    if (!process.env.NODE_INFINITY_CUDA_LIBRARY) this.skip(); // no card and none emulated
    const device = isaDevice(CUDA);
    const live = device.stats().liveTensors;
    const [C, rows, tokens, texts] = [32, 2, 4, 3];
    const config = parseInfinityConfig({
      ...{ embed_dim: C, num_heads: 2, depth: 1, block_chunks: 1, mlp_ratio: 4, text_channels: 128, text_maxlen: 4 },
      ...{ vae_embed_dim: 8, shared_aln: true, cos_attn: true, rope2d_normalized_by_hw: 2 },
    });
    const schedule = [
      [1, 1, 1],
      [1, 2, 2],
    ] as const;
    const model = placed({ device, dtype: 'bf16' }, () => new InfinityTransformer(config)).initialize(1);
    model.freeze('bf16');
    const [block] = model.blocks;
    const cache = new KvCache({ ...kvExtents(config, schedule), rows }, { device, dtype: 'bf16' });
    const given = (shape: number[]): Tensor => {
      const n = shape.reduce((a, b) => a * b, 1);
      const raw = new Uint32Array(Float32Array.from(randomArray(1, n)).buffer);
      return Tensor.from(
        Uint16Array.from(raw, (u) => u >>> 16),
        shape,
        'bf16',
        device,
      );
    };
    const ranges = Int32Array.from([0, texts, texts, 2 * texts]);
    const [x, cond, ca] = [given([rows, tokens, C]), given([6, rows, 1, C]), given([2 * texts, C])];
    const textRange = Tensor.from(ranges, [rows, 1, 2], 'i32', device);
    const rope = model.rope(schedule);
    const known: BlockCondition[] = [];
    const condition = () =>
      countCommands(device, () => {
        known.push(scope(() => block!.condition(cond, block!.textKeysValues(ca))));
      });
    const prompt = { add: 2, cast: 1, permute: 1, slice: 2 };
    assert.deepEqual(named(condition()), { ...prompt, linear: 4, write_slice: 2 });
    assert.deepEqual(named(condition()), { ...prompt, linear: 3 }); // what every prompt shares is kept

    const streams: Stream[] = [{ x_BLC: x }];
    const { sa } = known[0]!.folded!;
    const forward = (next?: typeof sa) =>
      countCommands(device, () => {
        const ctx = { rope, ropeStart: 1, memory: cache.memory(0, 1), textRange };
        streams.push(scope(() => block!.forward(streams.at(-1)!, known[0]!, ctx, next)));
      });
    const always = { attention: 2, qkv_append: 1 };
    // The first block of a scale, those behind it, and the last one.
    assert.deepEqual(named(forward(sa)), { ...always, ada_norm: 1, linear: 1, linear_measured: 3, linear_normed: 2 });
    assert.deepEqual(named(forward(sa)), { ...always, linear_measured: 3, linear_normed: 3 });
    assert.deepEqual(named(forward()), { ...always, linear: 1, linear_measured: 2, linear_normed: 3 });
    await device.sync();
    for (const stream of streams) disposeStream(stream);
    for (const t of tensorsOf({ blocks: known, head: [cond, ca], textRange })) t.dispose();
    for (const resource of [cache, model]) resource.dispose();
    assert.equal(device.stats().liveTensors, live);
  });
});
