import assert from 'node:assert/strict';
import type { Device } from '../../lib/device.js';
import { placed } from '../../lib/nn/module.js';
import { disposeStream, type Stream } from '../../lib/nn/stream.js';
import { cast } from '../../lib/ops/shape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { type ScaleSchedule, scaleTokens } from '../../lib/tokenizer/schedule.js';
import { conditionsOf, firstSamples, tensorsOf } from '../../lib/transformer/conditions.js';
import { type InfinityConfig, officialInfinityConfig } from '../../lib/transformer/config.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { KvCache, kvExtents } from '../../lib/transformer/kv_cache.js';
import { assertClean, CUDA, isaDevice, randomArray, relativeError } from '../support/numeric.js';
import { openOnCard } from '../support/product_routes.js';

const SCHEDULE: ScaleSchedule = [
  [1, 1, 1],
  [1, 3, 5],
];
/** Of the prompts of two samples. */
const ROWS = [
  [0, 3],
  [3, 8],
] as const;
const BITS = 8;

const config = (overrides: Partial<InfinityConfig>): InfinityConfig =>
  officialInfinityConfig('infinity_layer12', {
    ...{
      embed_dim: 72,
      depth: 3,
      num_heads: 2,
      block_chunks: 1,
      text_channels: 128,
      text_maxlen: 8,
      vae_embed_dim: BITS,
    },
    scale_schedules: [SCHEDULE],
    ...overrides,
  });

const OPTIONS: readonly Partial<InfinityConfig>[] = [
  {},
  { shared_aln: false, cross_attn_layer_scale: 0.5 },
  { rms_norm: true, swiglu: true, cos_attn: false },
];

/** Trained weights are larger than fresh ones: branches, modulations and norms of all kinds then show. */
function model(device: Device, dtype: 'f32' | 'bf16', options: InfinityConfig): InfinityTransformer {
  const made = placed({ device, dtype }, () => new InfinityTransformer(options)).initialize(3);
  for (const [i, [name, t]] of [...made.namedParameters(), ...made.namedBuffers()].entries()) {
    if (!/ada|gamma|norm|ln_|mat_|proj|fc|_bias/.test(name)) continue;
    const about = /norm.*weight|ln_.*weight|gamma/.test(name) ? 1 : 0;
    const scale = t.rank === 2 ? 0.25 : 0.5;
    t.write(Float32Array.from(randomArray(50 + i, t.size, scale), (v) => v + about));
  }
  return made.freeze(dtype);
}

/** What the blocks make of the second scale of two samples. */
async function draw(
  device: Device,
  dtype: 'f32' | 'bf16',
  options: InfinityConfig,
  form: 'folded' | 'plain' | 'first',
) {
  const network = model(device, dtype, options);
  const { embed_dim: C } = options;
  const B = form === 'first' ? 1 : 2;
  const tokens = ROWS.at(-1)![1];
  const kv_NCt = Tensor.from(Float32Array.from(randomArray(4, tokens * 128)), [tokens, 128], 'f32', device);
  const range = Tensor.from(Int32Array.from(ROWS.flat()), [2, 1, 2], 'i32', device);
  const { all, start_R1C } = scope(() =>
    conditionsOf(network, { kv_NCt: cast(kv_NCt, dtype), learned: 0, rows: ROWS }, range),
  );
  const own = firstSamples(all, 1);
  const { blocks, textRange } = form === 'first' ? own : all;
  assert.equal(
    blocks.every(({ folded }) => folded !== undefined),
    device.deterministic,
  );
  const cache = new KvCache({ ...kvExtents(options, SCHEDULE), rows: B }, { device, dtype });
  const rope = network.rope(SCHEDULE);
  const n = scaleTokens(SCHEDULE[1]!);
  const input = Float32Array.from(randomArray(7, 2 * n * C, 2), (v) => v + 0.5).slice(0, B * n * C);
  const x = Tensor.from(input, [B, n, C], 'f32', device);
  let stream: Stream = { x_BLC: scope(() => cast(x, dtype)) };
  for (const [i, block] of network.blocks.entries()) {
    const ctx = { rope, ropeStart: 1, memory: cache.memory(i, 0), textRange };
    const known = form === 'plain' ? { ...blocks[i]!, folded: undefined } : blocks[i]!;
    const next = form === 'plain' ? undefined : blocks[i + 1]?.folded?.sa;
    const before = stream;
    stream = scope(() => block.forward(before, known, ctx, next));
    disposeStream(before);
  }
  const values = await stream.x_BLC.readFloats();
  disposeStream(stream);
  for (const t of [x, kv_NCt, range, start_R1C, cache, network, ...tensorsOf(all), ...tensorsOf(own)]) t.dispose();
  return values;
}

describe(`norms in the products around them on ${CUDA}`, () => {
  before(function () {
    if (!process.env.NODE_INFINITY_CUDA_LIBRARY) this.skip(); // no card and none emulated
  });

  it('are the norms, in networks of every kind', async () => {
    const device = isaDevice(CUDA);
    const live = device.stats().liveTensors;
    for (const overrides of OPTIONS) {
      const options = config(overrides);
      const want = await draw(device, 'f32', options, 'plain');
      const got = await draw(device, 'f32', options, 'folded');
      const error = relativeError(got, want);
      assert.ok(error > 0 && error <= 4e-6, `${JSON.stringify(overrides)}: ${error}`);
      const exact = [...want];
      const rms = (values: ArrayLike<number>) =>
        Math.sqrt(exact.reduce((sum, v, i) => sum + (values[i]! - v) ** 2, 0) / exact.length);
      const plain = rms(await draw(device, 'bf16', options, 'plain'));
      const folded = rms(await draw(device, 'bf16', options, 'folded'));
      assert.ok(folded <= 1.25 * plain, `${JSON.stringify(overrides)} in bf16: ${folded} for ${plain}`);
    }
    await assertClean(device, live);
  });

  it('leave a sample its bits when the other one has gone', async () => {
    for (const dtype of ['f32', 'bf16'] as const) {
      const both = await draw(isaDevice(CUDA), dtype, config({}), 'folded');
      const one = await draw(isaDevice(CUDA), dtype, config({}), 'first');
      assert.deepEqual(one, both.slice(0, one.length));
    }
  });

  it('are kernels of their own where products may be left to a library', async () => {
    const device = openOnCard({ deterministic: false });
    const want = await draw(isaDevice(CUDA), 'f32', config({}), 'plain');
    assert.ok(relativeError(await draw(device, 'f32', config({}), 'folded'), want) <= 1e-5);
    await assertClean(device, 0);
    device.close();
  });
});
