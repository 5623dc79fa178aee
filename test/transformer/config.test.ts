import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import type { Module } from '../../lib/nn/module.js';
import { templateSchedule } from '../../lib/tokenizer/schedule.js';
import {
  dropPathRates,
  ffnHidden,
  INFINITY_SIZES,
  officialInfinityConfig,
  parseInfinityConfig,
  ropeFinest,
  swigluHidden,
} from '../../lib/transformer/config.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { readGoldenJson } from '../support/goldens.js';

describe('transformer config', () => {
  it('published sizes have the published numbers of parameters, before any memory is taken', () => {
    const published: [size: string, bits: number, parameters: number][] = [
      ['infinity_layer12', 32, 125_185_696],
      ['infinity_layer12', 16, 125_148_800],
      ['infinity_layer16', 32, 361_633_792],
      ['infinity_layer24', 32, 940_944_832],
      ['infinity_layer32', 32, 2_256_694_912],
      ['infinity_layer40', 32, 4_716_421_888],
      ['infinity_layer48', 32, 8_767_198_528],
      ['infinity_2b', 32, 2_204_564_032],
      ['infinity_2b', 56, 2_204_711_536],
      ['infinity_8b', 56, 8_375_791_824],
      ['infinity_20b', 32, 19_952_199_784],
    ];
    const before = Device.default().stats().liveBytes;
    for (const [size, bits, parameters] of published) {
      const found = INFINITY_SIZES.find((s) => s === size) ?? assert.fail(size);
      const config = officialInfinityConfig(found, { vae_embed_dim: bits });
      assert.equal(new InfinityTransformer(config).parameterCount(), parameters, `${size} with ${bits} bits`);
    }
    assert.equal(Device.default().stats().liveBytes, before);
  });

  for (const name of ['model_m1', 'model_m2', 'model_m3', 'model_m4'])
    it(`${name} has the names and shapes of the reference, buffers included`, function () {
      const golden = readGoldenJson<{
        config: object;
        tensors: Record<string, number[]>;
        parameter_count: number;
        buffers: string[];
      }>(this, `transformer/${name}.json`);
      const model: Module = new InfinityTransformer(parseInfinityConfig(golden.config));
      assert.deepEqual(Object.fromEntries(model.stateShapes()), golden.tensors);
      assert.deepEqual([...model.namedBuffers()].map(([buffer]) => buffer).sort(), [...golden.buffers].sort());
      assert.equal(model.parameterCount(), golden.parameter_count);
    });

  it('feed-forward widths round halves to even', function () {
    const { rows } = readGoldenJson<{
      rows: { embed_dim: number; mlp_ratio: number; ffn_hidden: number; swiglu_hidden: number | null }[];
    }>(this, 'transformer/b0_ffn_hidden.json');
    for (const { embed_dim, mlp_ratio, ffn_hidden, swiglu_hidden } of rows) {
      assert.equal(ffnHidden(embed_dim, mlp_ratio), ffn_hidden);
      assert.equal(swigluHidden(embed_dim, mlp_ratio), swiglu_hidden ?? 0);
    }
  });

  it('drop path grows linearly, in the reference’s rounding', () => {
    const config = officialInfinityConfig('infinity_layer12', { depth: 4, drop_path_rate: 0.4 });
    assert.deepEqual(dropPathRates(config), [0, 0.13333334028720856, 0.2666666507720947, 0.4000000059604645]);
    assert.deepEqual(dropPathRates({ ...config, depth: 1 }), [0]);
  });

  it('positions are stretched to the largest trained schedule of the ratio', () => {
    const official = officialInfinityConfig('infinity_2b');
    assert.deepEqual(ropeFinest(official, templateSchedule(0.75, '0.06M')), [54, 72]);
    const small = templateSchedule(1, '0.06M').slice(0, 5);
    const own = { ...official, scale_schedules: [small.slice(0, 3), small] };
    assert.deepEqual(ropeFinest(own, small.slice(0, 3)), [8, 8]);
  });

  it('refuses options by name', () => {
    const good = { embed_dim: 64, depth: 4, num_heads: 2, text_channels: 128, block_chunks: 2 };
    assert.equal(parseInfinityConfig(good).text_maxlen, 512);
    const wrong: [string, unknown][] = [
      ['embed_dim', 63.5],
      ['depth', undefined],
      ['num_heads', 5],
      ['block_chunks', 3],
      ['shared_aln', 'yes'],
      ['tau', 0],
      ['norm_eps', Number.NaN],
      ['rope2d_normalized_by_hw', 3],
      ['rope2d_each_sa_layer', 0],
      ['use_bit_label', 0],
      ['head_depth', 3],
      ['text_channels', 100],
      ['d_vae', 31],
      ['scale_schedules', []],
      ['drop_path_rate', 1],
    ];
    for (const [option, value] of wrong)
      assert.throws(() => parseInfinityConfig({ ...good, [option]: value }), {
        code: 'CHECKPOINT_INVALID',
        fields: { option },
      });
    assert.throws(() => parseInfinityConfig(null), { code: 'CHECKPOINT_INVALID' });
  });
});
