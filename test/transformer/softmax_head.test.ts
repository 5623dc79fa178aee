import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { placed } from '../../lib/nn/module.js';
import { drawKeys } from '../../lib/ops/bits.js';
import { cat } from '../../lib/ops/shape.js';
import { Tape } from '../../lib/tape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { addCodes, codesOfTokens, nextInput, tokensOfMap } from '../../lib/tokenizer/bit_tokens.js';
import { finestGrid, parseGrids } from '../../lib/tokenizer/schedule.js';
import { BitHead } from '../../lib/transformer/bit_head.js';
import { type InfinityConfig, officialInfinityConfig, parseInfinityConfig } from '../../lib/transformer/config.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { sampleScales } from '../../lib/transformer/sampler.js';
import { SoftmaxHead } from '../../lib/transformer/softmax_head.js';
import { assertClean, isaDevices, random, randomLabels } from '../support/numeric.js';

const config = (change: Partial<InfinityConfig>): InfinityConfig =>
  officialInfinityConfig('infinity_layer12', { embed_dim: 96, num_heads: 2, ...change });

for (const [isa, device] of isaDevices())
  describe(`softmax head on ${isa}`, () => {
    it('is the bit head where a token has one bit', async () => {
      const live = device.stats().liveTensors;
      const [B, L, C] = [2, 5, 96];
      const one = config({ vae_embed_dim: 1 });
      const heads = placed({ device }, () => [new BitHead(one), new SoftmaxHead({ ...one, head: 'softmax' })] as const);
      for (const head of heads) head.initialize(3);
      const schedule = parseGrids('1 2');
      const h_BLC = random(device, 1, [B, L, C], 'f32', 20);
      const labels = randomLabels(2, [B, L, 1], device);
      const keys = drawKeys(
        [0, 1].map((image) => ({ seed: 4, image })),
        device,
      );
      const cotangent = Tensor.from([1], [], 'f32', device);
      const results = heads.map((head) => {
        const tape = new Tape().watch(h_BLC);
        const loss = tape.run(() => head.loss(h_BLC, labels, { schedule, reweight: true }));
        const grad = tape.backward([{ of: loss.loss, cotangent }]);
        const drawn = scope(() => {
          const logits = head.classify(h_BLC);
          return head.choose(logits, null, { tau: 0.8, draws: { keys, scale: 1 } }).bits;
        });
        return { tensors: [loss.loss, loss.perToken, grad.get(h_BLC)!], equal: [loss.correct, drawn] };
      });
      const [a, b] = results;
      for (const [i, tensor] of a!.tensors.entries()) {
        const [want, got] = [await tensor.readFloats(), await b!.tensors[i]!.readFloats()];
        for (const [j, v] of want.entries()) assert.ok(Math.abs(v - got[j]!) < 2e-6, `${v} and ${got[j]}`);
      }
      for (const [i, tensor] of a!.equal.entries()) assert.deepEqual(await b!.equal[i]!.read(), await tensor.read());
      for (const t of [h_BLC, labels, keys, cotangent, ...results.flatMap((r) => [...r.tensors, ...r.equal])])
        t.dispose();
      for (const head of heads) head.dispose();
      await assertClean(device, live);
    });
  });

describe('softmax head', () => {
  it('teacher forcing predicts the codes that greedy sampling chose', async () => {
    const live = Device.default().stats().liveTensors;
    const [schedule, d, lens] = [parseGrids('1 2 3'), 5, [2, 3]];
    const model = new InfinityTransformer(
      config({
        depth: 2,
        block_chunks: 1,
        text_channels: 128,
        vae_embed_dim: d,
        head: 'softmax',
        scale_schedules: [schedule],
      }),
    );
    model.initialize(5);
    assert.deepEqual(model.stateShapes().get('head.weight'), [32, 96]);
    const text = { kv_NCt: random(Device.default(), 7, [5, 128]), lens };
    const images = lens.map((_, image) => ({ seed: 1, image }));
    const bits: Tensor[] = [];
    for await (const scale of sampleScales(model, { text, schedule, images, topK: 1 })) bits.push(scale.bits.retain());
    const { logits, chosen } = scope(() => {
      let sum: Tensor | null = null;
      const inputs: Tensor[] = [];
      for (const [k, [, h, w]] of schedule.entries()) {
        if (sum) inputs.push(tokensOfMap(nextInput(sum, [h, w])));
        sum = addCodes(sum, codesOfTokens(bits[k]!, [h, w], { d }), finestGrid(schedule));
      }
      const forced = model.forward(cat(inputs, 1), { text, schedule });
      return { logits: forced, chosen: model.head.choose(forced, null, { topK: 1 }).bits };
    });
    assert.deepEqual(logits.shape, [2, 14, 32]);
    const want = await Promise.all(bits.map((b) => b.read()));
    const got = await chosen.read();
    for (const b of [0, 1]) {
      const drawn = want.flatMap((scale) => [...scale.subarray((b * scale.length) / 2, ((b + 1) * scale.length) / 2)]);
      assert.deepEqual([...got.subarray(b * 14 * d, (b + 1) * 14 * d)], drawn);
    }
    for (const t of [logits, chosen, text.kv_NCt, ...bits]) t.dispose();
    model.dispose();
    assert.equal(Device.default().stats().liveTensors, live);
  });

  it('refuses tokens of more than 16 bits, naming the option', () => {
    const small = { embed_dim: 96, depth: 2, num_heads: 2, text_channels: 128, head: 'softmax' };
    assert.equal(parseInfinityConfig({ ...small, vae_embed_dim: 16 }).head, 'softmax');
    const refused = { code: 'CHECKPOINT_INVALID', message: /'head'.*|'bitwise' for tokens of 17 bits/ };
    assert.throws(() => parseInfinityConfig({ ...small, vae_embed_dim: 17 }), refused);
    assert.throws(() => parseInfinityConfig({ ...small, vae_embed_dim: 5, apply_spatial_patchify: true }), /20 bits/);
    assert.throws(() => parseInfinityConfig({ ...small, head: 'index' }), /'bitwise' or 'softmax'/);
  });
});
