import assert from 'node:assert/strict';
import type { Device } from '../../lib/device.js';
import { placed } from '../../lib/nn/module.js';
import { Op } from '../../lib/ops/generated.js';
import { Tape } from '../../lib/tape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { Autoencoder } from '../../lib/tokenizer/autoencoder.js';
import { countCommands } from '../support/commands.js';
import { CUDA, isaDevice, randomArray, relativeError } from '../support/numeric.js';

/** Widths that change and that stay, all levels upsampled; the grid is not square. */
const config = {
  ...{ codebook_dim: 6, base_ch: 16, encoder_ch_mult: [1, 2, 2], decoder_ch_mult: [1, 2, 2], num_res_blocks: 1 },
  ...{ patch_size: 4, norm_groups: 4 },
};
/** Residual blocks of the decoder, and convolutions between them that a norm follows. */
const [BLOCKS, UPSAMPLES] = [2 + 3 * 2, 2];

describe('decoding on a card', () => {
  let card: Device;
  before(function () {
    if (!process.env.NODE_INFINITY_CUDA_LIBRARY) this.skip(); // no card and none emulated
    card = isaDevice(CUDA);
  });
  const codesOn = (device: Device): Tensor =>
    scope(() => Tensor.from(Float32Array.from(randomArray(5, 6 * 8 * 6)), [1, 6, 8, 6], 'f32', device));

  for (const dtype of ['f32', 'bf16'] as const)
    it(`${dtype}: norms take the statistics of the convolutions before them, which add residuals themselves`, async () => {
      const live = card.stats().liveTensors;
      const decoded = async (device: Device, fn: (model: Autoencoder, codes: Tensor) => Tensor) => {
        const model = placed({ device, dtype: device === card ? dtype : 'f32' }, () => new Autoencoder(config));
        model.initialize(3).freeze(dtype);
        const codes = codesOn(device);
        let picture: Tensor | undefined;
        const commands = countCommands(device, () => {
          picture = scope(() => fn(model, codes));
        });
        const values = await picture!.readFloats();
        for (const t of [picture!, codes, model]) t.dispose();
        return { values, commands };
      };
      const fused = await decoded(card, (model, codes) => model.decoder.forward(codes));
      const count = (op: { id: number }) => fused.commands.get(op.id) ?? 0;
      // conv_in, the first convolution of every block, the second of those before a norm, and of each level's upsampling.
      assert.equal(count(Op.conv2dStats), 1 + BLOCKS + (BLOCKS - UPSAMPLES));
      assert.equal(count(Op.conv2dAdd), UPSAMPLES);
      assert.equal(count(Op.upsampleConv2dStats), UPSAMPLES);
      assert.equal(count(Op.groupNormApply), 2 * BLOCKS + 1);
      assert.equal(count(Op.groupNorm) + count(Op.groupNormStats) + count(Op.add), 0);
      // Bands are summed whole: their norms read the picture once more.
      const bands = await decoded(card, (model, codes) => model.decoder.forwardInBands(codes, 1));
      assert.ok((bands.commands.get(Op.groupNormStats.id) ?? 0) > 0);
      const exact = await decoded(isaDevice('generic'), (model, codes) => model.decoder.forward(codes));
      const tolerance = dtype === 'f32' ? 2e-5 : 4e-2;
      for (const [what, { values }] of Object.entries({ fused, bands }))
        assert.ok(relativeError(values, exact.values) < tolerance, `${what}: ${relativeError(values, exact.values)}`);
      assert.equal(card.stats().liveTensors, live);
    });

  it('a tape records the composed form', async () => {
    const model = placed({ device: card }, () => new Autoencoder(config)).initialize(3);
    const codes = codesOn(card);
    const tape = new Tape().watch(codes);
    let taped: Tensor | undefined;
    const commands = countCommands(card, () => {
      taped = tape.run(() => model.decoder.forward(codes));
    });
    assert.equal(commands.get(Op.groupNorm.id), 2 * BLOCKS + 1);
    assert.equal(commands.get(Op.conv2dStats.id), undefined);
    const free = scope(() => model.decoder.forward(codes));
    assert.ok(relativeError(await free.readFloats(), await taped!.readFloats()) < 2e-5);
    const grads = tape.backward([{ of: taped!, cotangent: taped! }]);
    assert.ok((await grads.get(codes)!.readFloats()).some((g) => g !== 0));
    for (const t of [free, taped!, codes, model, grads]) t.dispose();
  });
});
