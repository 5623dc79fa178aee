/** A minute on a card is dear: the benchmarks run here first, at tiny sizes. */
import assert from 'node:assert/strict';
import { block } from '../../benchmarks/card/block.js';
import { casesOf, modelConfig, squareSchedule, textConfig } from '../../benchmarks/card/cases.js';
import { kernels } from '../../benchmarks/card/kernels.js';
import { againstFloor } from '../../benchmarks/card/measure.js';
import { scaleWorks, textWork } from '../../benchmarks/card/picture_work.js';
import { pictures } from '../../benchmarks/card/pictures.js';
import { compare } from '../../benchmarks/card/table.js';
import { train } from '../../benchmarks/card/train.js';
import { isRouted, ways } from '../../benchmarks/card/ways.js';
import type { Row } from '../../benchmarks/harness.js';
import { Device } from '../../lib/device.js';
import { placed } from '../../lib/nn/module.js';
import { countFlops } from '../../lib/ops/flops.js';
import { fill } from '../../lib/ops/shape.js';
import { T5Encoder } from '../../lib/text/t5.js';
import { scaleOffsets, scaleTokens, templateSchedule, tokenCount } from '../../lib/tokenizer/schedule.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { sampleScales } from '../../lib/transformer/sampler.js';
import { CUDA } from '../support/numeric.js';

describe('benchmarks of a card', () => {
  it('measure the published scales of square pictures, every case under a name of its own', () => {
    for (const budget of ['0.06M', '0.25M', '1M'] as const) {
      const published = templateSchedule(1, budget);
      assert.deepEqual(squareSchedule(published.length), published);
    }
    for (const short of [true, false]) {
      const names = casesOf(short).kernels.map(({ name }) => name);
      assert.equal(new Set(names).size, names.length);
    }
    const kinds = (short: boolean) => new Set(casesOf(short).kernels.map(({ kind }) => kind));
    assert.deepEqual([...kinds(true)].sort(), [...kinds(false)].sort());
  });

  it('are told as ratios to the fastest peer of a kind and as fractions of the higher ceiling', () => {
    const ours: Record<string, string | number>[] = [
      { name: 'copy of 1 MiB', median_ms: 2, mbyte: 2 },
      { name: 'x', median_ms: 4, mbyte: 2, launches: 3 },
      { name: 'x', median_ms: 9, mbyte: 2 },
      { name: 'x, by warpgroups', median_ms: 2, mbyte: 2 },
    ];
    const peers: Record<string, string | number>[] = [
      { name: 'copy of 1 MiB', peer: 'copy', median_ms: 1, mbyte: 2 },
      { name: 'x', peer: 'eager', median_ms: 10 },
      { name: 'x', peer: 'compiled:flash', median_ms: 6 },
      { name: 'x', peer: 'compiled:flex', median_ms: 2 },
      { name: 'y', peer: 'eager', error: 'out of memory' },
    ];
    const [, x, byOther, ...more] = compare(ours, peers);
    assert.deepEqual(more, []);
    assert.deepEqual([byOther!.name, byOther!['over eager'], byOther!['of floor']], ['x, by warpgroups', 5, 0.5]);
    const told = { ms: 4, 'over eager': 2.5, 'over compiled': 0.5, 'of floor': 0.25, 'peak MiB': '', launches: 3 };
    assert.deepEqual(x, { name: 'x', ...told });
  });

  it('count the products of a block, of a text encoder and of whole pictures as their commands say', async () => {
    const cases = casesOf(true);
    const config = modelConfig(cases, 3);
    const device = Device.create('cpu', { dry: true });
    const model = placed({ device }, () => new InfinityTransformer(config));
    const encoder = placed({ device }, () => new T5Encoder(textConfig(cases)));
    for (const network of [model, encoder]) network.reserve();
    const n = 3;
    const text = { kv_NCt: fill([n, config.text_channels], 0, 'f32', device), lens: [n] };
    const schedule = squareSchedule(3);
    const submitted = await countFlops(device, async () => {
      for await (const { scale } of sampleScales(model, {
        text,
        schedule,
        images: [{ seed: 1, image: 0 }],
        guidance: 3,
      }))
        assert.ok(scale < 3);
    });
    const encoded = await countFlops(device, () => encoder.encode([[1, 2, 3]]).kv_NCt.dispose());
    // Attention is not counted there, and pairs of queries and keys are what it takes.
    const attention = (rows: number, pairs: number, width: number, layers: number) => 4 * rows * pairs * width * layers;
    const { embed_dim: C, depth } = config;
    const offsets = scaleOffsets(schedule);
    const pairs = schedule.reduce((sum, scale, k) => sum + scaleTokens(scale) * (offsets[k + 1]! + n), 0);
    const whole = scaleWorks(config, schedule, n).reduce((sum, { flops }) => sum + flops, 0);
    device.close();
    // The processor's head is not folded: the other half of its rows.
    const unfolded = 2 * 2 * tokenCount(schedule) * config.vae_embed_dim * C;
    assert.equal(submitted, whole - attention(2, pairs, C, depth) + unfolded);
    const { d_kv, num_heads, num_layers } = encoder.config;
    assert.equal(encoded, textWork(encoder.config, n).flops - attention(1, n * n, d_kv * num_heads, num_layers));
  });

  it('sum the floors of parts, each of what bounds it', () => {
    const parts = [
      { flops: 8e9, bytes: 1e6 },
      { flops: 1e9, bytes: 4e6 },
    ];
    const row = againstFloor(parts, { median: 10 }, { rate: 2e9, bandwidth: 2e6 });
    assert.deepEqual(row, { gflop: 8, mbyte: 4, floor_ms: 6000, fraction: 0.6 });
  });

  describe(`on ${CUDA}`, function () {
    this.timeout(120_000);
    before(function () {
      if (!process.env.NODE_INFINITY_CUDA_LIBRARY) this.skip(); // needs NODE_INFINITY_CUDA_LIBRARY
    });

    for (const [name, level, least] of [
      ['kernels', kernels, casesOf(true).kernels.length + 3],
      ['block', block, 2 + casesOf(true).block.scales],
      ['ways', ways, 2 + 2 * casesOf(true).kernels.filter(isRouted).length],
      ['pictures', pictures, 2 * (2 + 2 + casesOf(true).pictures[0]!.scales + 5)],
      ['train', train, 2 + 4],
    ] as const)
      it(`${name}: every figure is a number, every time and its floor above 0`, async () => {
        const rows: Row[] = [];
        for await (const row of level({ short: true })) rows.push(row);
        // A card may have more ways.
        assert.ok(name === 'ways' ? rows.length >= least : rows.length === least, `${rows.length} rows`);
        for (const row of rows) {
          if (!('weights_mib' in row))
            assert.ok(Number(row.median_ms) > 0 && Number(row.floor_ms) > 0, JSON.stringify(row));
          for (const [key, value] of Object.entries(row))
            assert.ok(['name', 'decided'].includes(key) || Number.isFinite(value), key);
          if ('decided' in row) assert.match(String(row.decided), /^\w+ \((\w+ \d+\.\d+ ms|the only way)/);
        }
        assert.ok(rows.every(({ launches }) => launches === undefined || Number(launches) > 0));
      });
  });
});
