import assert from 'node:assert/strict';
import { inferT5Config } from '../../lib/text/infer_config.js';
import { T5Encoder } from '../../lib/text/t5.js';
import { FLAN_T5_XL } from '../../lib/text/t5_config.js';

describe('configuration from the tensors of a text encoder', () => {
  it('finds flan-t5-xl, by either name of its embedding, and passes over the decoder', () => {
    const network = new T5Encoder(FLAN_T5_XL);
    const shapes = network.stateShapes();
    // Counted from the published sizes: 24 blocks of 4 projections of 2048 × 2048, three of 2048 × 5120 and two norms.
    const block = 4 * 2048 * 2048 + 3 * 2048 * 5120 + 2 * 2048;
    assert.equal(network.parameterCount(), 32128 * 2048 + 32 * 32 + 24 * block + 2048);
    assert.deepEqual(inferT5Config(shapes), FLAN_T5_XL);
    shapes.set('encoder.embed_tokens.weight', shapes.get('shared.weight')!).delete('shared.weight');
    shapes.set('decoder.block.0.layer.0.SelfAttention.q.weight', [2048, 2048]).set('lm_head.weight', [32128, 2048]);
    const config = inferT5Config(shapes);
    assert.deepEqual(config, FLAN_T5_XL);
    new T5Encoder(config).matchState({ shapes });
  });

  it('lets config.json go first and names the option where the tensors disagree', () => {
    const shapes = new T5Encoder(FLAN_T5_XL).stateShapes();
    assert.equal(inferT5Config(shapes, { layer_norm_epsilon: 1e-5 }).layer_norm_epsilon, 1e-5);
    assert.throws(() => new T5Encoder(inferT5Config(shapes, { num_layers: 23 })).matchState({ shapes }), {
      code: 'CHECKPOINT_CONFIG_MISMATCH',
      message: /encoder\.block\.23\.\S+" \(num_layers\): expected nothing/,
    });
    assert.throws(() => inferT5Config(new Map()), { code: 'CHECKPOINT_INVALID' });
  });
});
