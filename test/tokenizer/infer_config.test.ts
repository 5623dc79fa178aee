import assert from 'node:assert/strict';
import type { Shape } from '../../lib/tensor.js';
import { Autoencoder } from '../../lib/tokenizer/autoencoder.js';
import { type AutoencoderConfig, officialAutoencoderConfig } from '../../lib/tokenizer/config.js';
import { inferAutoencoderConfig } from '../../lib/tokenizer/infer_config.js';

const shapesOf = (config: AutoencoderConfig): Map<string, Shape> => new Autoencoder(config).stateShapes();
const withoutWrappers = (shapes: ReadonlyMap<string, Shape>): Map<string, Shape> =>
  new Map([...shapes].map(([name, shape]) => [name.replace(/\.(conv|norm)\.(weight|bias)$/, '.$2'), shape]));

describe('configuration from the tensors of a visual tokenizer', () => {
  for (const [d, parameters] of [
    [14, 81_624_209],
    [16, 109_970_579],
    [24, 110_044_315],
    [32, 110_118_051],
    [64, 110_412_995],
  ] as const)
    it(`finds the released one of ${d} bits, ${parameters} parameters, in both spellings`, () => {
      const official = officialAutoencoderConfig(d);
      const shapes = shapesOf(official);
      assert.deepEqual(inferAutoencoderConfig(shapes), official);
      const network = new Autoencoder(inferAutoencoderConfig(withoutWrappers(shapes)));
      network.matchState({ shapes: withoutWrappers(shapes) });
      assert.deepEqual(network.config, official);
      assert.equal(network.parameterCount(), parameters);
    });

  it('finds others: strides, depths, widths that differ between encoder and decoder', () => {
    const small = { codebook_dim: 5, base_ch: 24, num_res_blocks: 1, patch_size: 2 };
    const configs: AutoencoderConfig[] = [
      { ...small, encoder_ch_mult: [1, 1], decoder_ch_mult: [1, 1] },
      { ...small, patch_size: 4, num_res_blocks: 3, encoder_ch_mult: [1, 2, 4], decoder_ch_mult: [1, 3, 2] },
      { ...small, patch_size: 2, encoder_ch_mult: [2, 2], decoder_ch_mult: [1, 2, 4] },
    ];
    for (const config of configs) assert.deepEqual(inferAutoencoderConfig(shapesOf(config)), config);
  });

  it('leaves to options what tensors cannot tell, and refuses what is no tokenizer', () => {
    const shapes = shapesOf({ ...officialAutoencoderConfig(16), norm_groups: 4 });
    assert.equal(inferAutoencoderConfig(shapes, { norm_groups: 4 }).norm_groups, 4);
    assert.throws(() => inferAutoencoderConfig(new Map()), { code: 'CHECKPOINT_INVALID', value: 'encoder.conv_in' });
    assert.throws(() => new Autoencoder(inferAutoencoderConfig(shapes, { codebook_dim: 32 })).matchState({ shapes }), {
      message:
        /"encoder\.conv_out\.conv\.weight" \(codebook_dim, base_ch\): expected \[32, 512, 3, 3\], found \[16, 512, 3, 3\]/,
    });
  });

  it('passes over masks, perceptual and other networks beside encoder and decoder, not over parts of these', () => {
    const network = new Autoencoder(officialAutoencoderConfig(16));
    const shapes = network.stateShapes();
    for (const name of ['quantizer.lfq.mask', 'perceptual_model.net.slice1.0.weight', 'anything.else'])
      shapes.set(name, [16]);
    network.matchState({ shapes });
    shapes.set('encoder.mid.attn_1.q.conv.weight', [512, 512, 1, 1]);
    assert.throws(() => network.matchState({ shapes }), { code: 'CHECKPOINT_CONFIG_MISMATCH', message: /attn_1/ });
  });
});
