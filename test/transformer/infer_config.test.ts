import assert from 'node:assert/strict';
import { InfinityError } from '../../lib/errors.js';
import type { Shape } from '../../lib/tensor.js';
import {
  INFINITY_SIZES,
  type InfinityConfig,
  officialInfinityConfig,
  parseInfinityConfig,
} from '../../lib/transformer/config.js';
import { inferInfinityConfig, publishedSize } from '../../lib/transformer/infer_config.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { readGoldenJson } from '../support/goldens.js';

/** Parameters as the official modules count them, from "infinity_2b" with its bits a token. */
const PUBLISHED: readonly (readonly [size: string, bits: number, parameters: number])[] = [
  ['infinity_layer12', 32, 125_185_696],
  ['infinity_layer12', 16, 125_148_800],
  ['infinity_layer16', 32, 361_633_792],
  ['infinity_layer24', 32, 940_944_832],
  ['infinity_layer32', 32, 2_256_694_912],
  ['infinity_layer40', 32, 4_716_421_888],
  ['infinity_layer48', 32, 8_767_198_528],
  ['infinity_2b', 32, 2_204_564_032],
  ['infinity_8b', 56, 8_375_791_824],
  ['infinity_20b', 32, 19_952_199_784],
];

const shapesOf = (config: InfinityConfig): Map<string, Shape> => new InfinityTransformer(config).stateShapes();
const numbersIn = (shapes: ReadonlyMap<string, Shape>): number => {
  let sum = 0;
  for (const [name, shape] of shapes) if (!name.endsWith('zero_k_bias')) sum += shape.reduce((a, b) => a * b, 1);
  return sum;
};

describe('configuration from the tensors of a transformer', () => {
  for (const [name, bits, parameters] of PUBLISHED)
    it(`finds ${name} with ${bits} bits, ${parameters} parameters`, () => {
      const size = INFINITY_SIZES.find((s) => s === name) ?? assert.fail(name);
      const patchify = bits === 56;
      const overrides = { vae_embed_dim: patchify ? 14 : bits, apply_spatial_patchify: patchify };
      const official = officialInfinityConfig(size, overrides);
      const shapes = shapesOf(official);
      const config = inferInfinityConfig(shapes);
      assert.deepEqual(config, official);
      assert.equal(publishedSize(config), name);
      const network = new InfinityTransformer(config);
      network.matchState({ shapes });
      assert.equal(network.parameterCount(), parameters);
      assert.equal(numbersIn(shapes), parameters);
    });

  for (const name of ['model_m1', 'model_m2', 'model_m3', 'model_m4'])
    it(`finds every option of ${name} that its tensors tell`, function () {
      const { config, tensors } = readGoldenJson<{ config: object; tensors: Record<string, number[]> }>(
        this,
        `transformer/${name}.json`,
      );
      const want = parseInfinityConfig(config);
      // Positions, places of the level embedding, epsilon and dropping leave no tensor.
      const { rope2d_normalized_by_hw, add_lvl_embeding_only_first_block, tau, norm_eps, drop_path_rate } = want;
      const heads = want.cos_attn ? {} : { num_heads: want.num_heads };
      const given = {
        rope2d_normalized_by_hw,
        add_lvl_embeding_only_first_block,
        tau,
        norm_eps,
        drop_path_rate,
        ...heads,
      };
      const shapes = new Map(Object.entries(tensors));
      const found = inferInfinityConfig(shapes, { tokenizerBits: want.vae_embed_dim, given });
      const gain = want.cross_attn_layer_scale >= 0 ? { cross_attn_layer_scale: found.cross_attn_layer_scale } : {};
      assert.ok(found.cross_attn_layer_scale >= 0 === want.cross_attn_layer_scale >= 0);
      assert.deepEqual(found, { ...want, ...gain, mlp_ratio: found.mlp_ratio });
      new InfinityTransformer(found).matchState({ shapes });
    });

  it('finds gated and wide feed-forward layers, two-layer heads and single chunks', () => {
    const base = { embed_dim: 512, depth: 4, num_heads: 4, block_chunks: 1, text_channels: 256, text_maxlen: 7 };
    for (const option of [
      { swiglu: true },
      { swiglu: true, mlp_ratio: 3 },
      { mlp_ratio: 2.5 },
      { mlp_ratio: 4.2 },
      { head_depth: 2 },
      { block_chunks: 4 },
      { shared_aln: false },
      { nm0: true, rms_norm: true },
    ]) {
      const shapes = shapesOf(parseInfinityConfig({ ...base, ...option }));
      new InfinityTransformer(inferInfinityConfig(shapes)).matchState({ shapes });
    }
  });

  it('takes a token of D bits for one position unless the tokenizer or no known tokenizer says four', () => {
    const bits = (D: number, tokenizerBits?: number) => {
      const small = { embed_dim: 64, depth: 2, num_heads: 2, text_channels: 128, vae_embed_dim: D };
      const config = inferInfinityConfig(shapesOf(parseInfinityConfig(small)), { tokenizerBits });
      return [config.vae_embed_dim, config.apply_spatial_patchify];
    };
    assert.deepEqual(bits(32), [32, false]);
    assert.deepEqual(bits(64), [64, false]);
    assert.deepEqual(bits(64, 16), [16, true]);
    assert.deepEqual(bits(56), [14, true]);
    assert.deepEqual(bits(6), [6, false]);
    assert.deepEqual(bits(32, 16), [32, false], 'left to the comparison with the tokenizer');
  });

  it('refuses tensors that are no transformer, and options that contradict the tensors, by name', () => {
    assert.throws(() => inferInfinityConfig(new Map()), { code: 'CHECKPOINT_INVALID', value: 'pos_start' });
    const shapes = shapesOf(officialInfinityConfig('infinity_layer12'));
    for (const [given, option, tensor, text] of [
      [{ depth: 8 }, 'depth', 'block_chunks.0.module.2.ada_gss', /expected nothing, found \[1, 1, 6, 768\]/],
      [{ vae_embed_dim: 16 }, 'vae_embed_dim', 'word_embed.weight', /expected \[768, 16\], found \[768, 32\]/],
      [{ shared_aln: false }, 'shared_aln', 'shared_ada_lin.1.weight', /expected nothing/],
      [{ head_depth: 2 }, 'head_depth', 'head.0.weight', /expected \[768, 768\], found nothing/],
      [{ block_chunks: 1 }, 'block_chunks', 'block_chunks.0.module.0.ada_gss', /expected nothing/],
      [{ num_heads: 16 }, 'num_heads', 'block_chunks.0.module.0.sa.scale_mul_1H11', /expected \[1, 16, 1, 1\]/],
    ] as const)
      assert.throws(
        () => new InfinityTransformer(inferInfinityConfig(shapes, { given })).matchState({ shapes }),
        (error: unknown) => {
          assert.ok(error instanceof InfinityError && error.code === 'CHECKPOINT_CONFIG_MISMATCH');
          const listed = error.fields.mismatches as Record<'tensor' | 'option' | 'expected' | 'found', string>[];
          const own = listed.find((m) => m.tensor === tensor) ?? assert.fail(`${tensor} is not listed`);
          assert.ok(own.option.includes(option), own.option);
          assert.match(`expected ${own.expected}, found ${own.found}`, text);
          return true;
        },
      );
  });
});
