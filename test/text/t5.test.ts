import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { placed } from '../../lib/nn/module.js';
import { Tape } from '../../lib/tape.js';
import { Tensor } from '../../lib/tensor.js';
import { T5Encoder } from '../../lib/text/t5.js';
import { parseT5Config, relativePositionBucket, type T5Config } from '../../lib/text/t5_config.js';
import { randomArray, relativeError } from '../support/numeric.js';
import { readTensors, TransformerCase, toState } from '../support/transformer_case.js';

interface EncoderJson {
  readonly config: object;
  readonly lens: number[];
  readonly checks: TransformerCase['json']['checks'];
}

const SMALL: T5Config = {
  d_model: 8,
  d_kv: 4,
  num_heads: 3,
  d_ff: 10,
  num_layers: 2,
  vocab_size: 11,
  relative_attention_num_buckets: 8,
  relative_attention_max_distance: 16,
  layer_norm_epsilon: 1e-6,
};

describe('t5 encoder', () => {
  it('agrees with the reference after every sub-layer', async function () {
    const live = Device.default().stats().liveTensors;
    const golden = new TransformerCase<EncoderJson>(this, 'e_t5_encoder');
    const encoder = new T5Encoder(parseT5Config(golden.json.config));
    encoder.load(toState(readTensors(this, 'transformer/e_t5_encoder_weights')));
    for (const batch of ['padded', 'long']) {
      const { shape } = golden.host(`${batch}.input_ids`);
      const [B, L] = [shape[0]!, shape[1]!];
      const mask = golden.integers(`${batch}.attention_mask`);
      const lens = Array.from({ length: B }, (_, b) => mask.slice(b * L, (b + 1) * L).reduce((a, m) => a + m, 0));
      using ids = Tensor.from(Int32Array.from(golden.integers(`${batch}.input_ids`)), [B, L], 'i32');
      const taps = new Map<string, Tensor>();
      using last = encoder.forward(ids, lens, (name, value) => void taps.set(`${batch}.${name}`, value.retain()));
      taps.set(`${batch}.last_hidden_state`, last.retain());
      for (const output of golden.outputs(`${batch}.*`))
        golden.check(output, await (taps.get(output) ?? assert.fail(`no ${output}`)).readFloats());
      for (const t of taps.values()) t.dispose();
    }
    const ids = golden.integers('padded.input_ids');
    const width = golden.host('padded.input_ids').shape[1]!;
    const { kv_NCt, lens } = encoder.encode(golden.json.lens.map((n, b) => ids.slice(b * width, b * width + n)));
    golden.check('compact.kv_compact', await kv_NCt.readFloats());
    golden.check('compact.lens', lens);
    const config = parseT5Config(golden.json.config);
    golden.check(
      'bucket.index',
      golden.integers('bucket.relative_position').map((delta) => relativePositionBucket(delta, config)),
    );
    kv_NCt.dispose();
    encoder.dispose();
    assert.equal(Device.default().stats().liveTensors, live, 'tensors leaked');
  });

  it('a prompt has the same features alone and beside longer ones, bit for bit', async () => {
    using encoder = new T5Encoder({ ...SMALL, d_model: 32, d_ff: 48 }).initialize(1).freeze();
    const prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [3]];
    const { kv_NCt } = encoder.encode(prompts);
    const together = await kv_NCt.readFloats();
    kv_NCt.dispose();
    let at = 0;
    for (const prompt of prompts) {
      using alone = encoder.encode([prompt]).kv_NCt;
      const values = await alone.readFloats();
      assert.deepEqual(values, together.slice(at, at + values.length));
      at += values.length;
    }
  });

  it('gradients of all parameters equal finite differences in f64', async () => {
    const encoder = placed({ dtype: 'f64' }, () => new T5Encoder(SMALL)).initialize(5);
    const prompts = [
      [1, 2, 3, 9, 10],
      [4, 5],
    ];
    const weights = randomArray(9, 7 * SMALL.d_model);
    const parameters = [...encoder.namedParameters()];
    const tape = new Tape().watch(...parameters.map(([, t]) => t));
    const kv_NCt = tape.run(() => encoder.encode(prompts).kv_NCt);
    using cotangent = Tensor.from(weights, kv_NCt.shape, 'f64');
    const grads = tape.backward([{ of: kv_NCt, cotangent }]);
    kv_NCt.dispose();
    const loss = async (): Promise<number> => {
      using y = encoder.encode(prompts).kv_NCt;
      return Float64Array.from(await y.readFloats()).reduce((sum, v, i) => sum + v * weights[i]!, 0);
    };
    for (const [name, parameter] of parameters) {
      const grad = grads.get(parameter) ?? assert.fail(`no gradient of ${name}`);
      const values = Float64Array.from(await parameter.readFloats());
      const got = await grad.readFloats();
      // A few numbers of every tensor: each costs two passes.
      const picked = [0, 1, 2, 3]
        .map((i) => Math.floor((i * values.length) / 4) + (i % 3))
        .filter((i) => i < values.length);
      const want: number[] = [];
      for (const i of picked) {
        const at = values[i]!;
        const sides: number[] = [];
        for (const step of [1e-5, -1e-5]) {
          values[i] = at + step;
          parameter.write(values);
          sides.push(await loss());
        }
        values[i] = at;
        parameter.write(values);
        want.push((sides[0]! - sides[1]!) / 2e-5);
      }
      const error = relativeError([...picked.map((i) => got[i]!), 1], [...want, 1]);
      assert.ok(error <= 1e-6, `${name}: relative error ${error}`);
    }
    grads.dispose();
    encoder.dispose();
  });

  it('takes the embedding under its second name and refuses foreign configs', async () => {
    using encoder = new T5Encoder(SMALL).initialize(1);
    const state = await encoder.stateDict();
    const renamed = new Map(state).set('encoder.embed_tokens.weight', state.get('shared.weight')!);
    renamed.delete('shared.weight');
    using other = new T5Encoder(SMALL).load(renamed);
    assert.deepEqual(await other.stateDict(), state);
    assert.throws(() => encoder.encode([[]]), { code: 'PROMPT_EMPTY' });
    for (const [option, value] of [
      ['d_model', 0],
      ['d_kv', 1.5],
      ['feed_forward_proj', 'relu'],
      ['num_layers', '3'],
    ] as const)
      assert.throws(() => parseT5Config({ ...SMALL, [option]: value }), {
        code: 'CHECKPOINT_INVALID',
        fields: { option },
      });
  });
});
