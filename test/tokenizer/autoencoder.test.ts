import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import { Tensor } from '../../lib/tensor.js';
import { Autoencoder } from '../../lib/tokenizer/autoencoder.js';
import { officialAutoencoderConfig, parseAutoencoderConfig } from '../../lib/tokenizer/config.js';

/** Counted by instantiating the official modules: [all, encoder, decoder] by bits. */
const COUNTS: Readonly<Record<number, readonly [number, number, number]>> = {
  14: [81_624_209, 33_139_598, 48_484_611],
  16: [109_970_579, 44_951_952, 65_018_627],
  24: [110_044_315, 44_988_824, 65_055_491],
  32: [110_118_051, 45_025_696, 65_092_355],
  64: [110_412_995, 45_173_184, 65_239_811],
};

describe('autoencoder', () => {
  it('has the official number of weights at every published size, and takes no memory before they are loaded', () => {
    const before = Device.default().stats().liveBytes;
    for (const [d, counts] of Object.entries(COUNTS)) {
      const { encoder, decoder, ...model } = new Autoencoder(officialAutoencoderConfig(Number(d)));
      assert.deepEqual(
        [encoder.parameterCount() + decoder.parameterCount(), encoder.parameterCount(), decoder.parameterCount()],
        counts,
        `d = ${d}`,
      );
      assert.equal(model.config.codebook_dim, Number(d));
    }
    assert.equal(Device.default().stats().liveBytes, before);
  });

  it('refuses pictures that its patches do not divide, and names the sizes', () => {
    const model = new Autoencoder(officialAutoencoderConfig(16));
    const picture = Tensor.from(new Float32Array(16 * 24 * 3), [1, 16, 24, 3]);
    assert.throws(
      () => model.encode(picture),
      (e: unknown) => e instanceof InfinityError && e.code === 'UNSUPPORTED_SIZE' && /multiples of 16/.test(e.message),
    );
    picture.dispose();
  });

  it('refuses a config that makes no network, by field', () => {
    const good = officialAutoencoderConfig(16);
    for (const [field, value] of [
      ['patch_size', 12],
      ['encoder_ch_mult', []],
      ['base_ch', 0],
      ['norm_groups', -1],
    ] as const)
      assert.throws(
        () => parseAutoencoderConfig({ ...good, [field]: value }),
        (e: unknown) => e instanceof InfinityError && e.code === 'CHECKPOINT_INVALID' && e.fields.field === field,
        field,
      );
  });
});
