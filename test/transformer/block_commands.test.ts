import assert from 'node:assert/strict';
import { placed } from '../../lib/nn/module.js';
import { Op } from '../../lib/ops/generated.js';
import { scope, Tensor } from '../../lib/tensor.js';
import type { BlockCondition } from '../../lib/transformer/block.js';
import { parseInfinityConfig } from '../../lib/transformer/config.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { KvCache, kvExtents } from '../../lib/transformer/kv_cache.js';
import { countCommands } from '../support/commands.js';
import { CUDA, isaDevice, randomArray } from '../support/numeric.js';

const NAMES = new Map<number, string>(Object.values(Op).map(({ id, name }) => [id, name]));
const named = (counts: ReadonlyMap<number, number>) =>
  Object.fromEntries([...counts].map(([id, n]) => [NAMES.get(id)!, n] as const).sort());

describe('commands of a frozen block on a card', () => {
  it('are products, attention and norms: everything else is in an epilogue', async function () {
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
    let known: BlockCondition | undefined;
    const conditions = countCommands(device, () => {
      known = scope(() => ({ modulation: block!.modulation(cond), text: block!.textKeysValues(ca) }));
    });
    assert.deepEqual(named(conditions), { add: 1, linear: 1, slice: 2 });
    const forward = countCommands(device, () => {
      scope(() => {
        block!.forward(x, known!, { rope, ropeStart: 1, memory: cache.memory(0, 1), textRange });
      });
    });
    assert.deepEqual(named(forward), { ada_norm: 2, attention: 2, layer_norm: 1, linear: 6, qkv_append: 1 });
    await device.sync();
    for (const t of [x, cond, ca, textRange, cache, model, ...known!.modulation, ...Object.values(known!.text)])
      t.dispose();
    assert.equal(device.stats().liveTensors, live);
  });
});
