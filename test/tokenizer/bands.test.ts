import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { placed } from '../../lib/nn/module.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { Autoencoder } from '../../lib/tokenizer/autoencoder.js';
import { bandsOf } from '../../lib/tokenizer/bands.js';
import { randomArray } from '../support/numeric.js';

/** Every kind of layer and of kernel: widths that change and that stay, all levels upsampled, groups of several channels. */
const config = {
  ...{ codebook_dim: 6, base_ch: 32, encoder_ch_mult: [1, 2, 2], decoder_ch_mult: [1, 2, 2], num_res_blocks: 1 },
  ...{ patch_size: 4, norm_groups: 4 },
};

describe('decoding in bands', () => {
  it('cuts rows without a gap, with the neighbours that there are', () => {
    const bands = bandsOf(100, 1 << 10, 1 << 15);
    assert.deepEqual(
      bands.map(({ begin, end, above, below }) => [begin, end, above, below]),
      [
        [0, 24, 0, 1],
        [24, 48, 1, 1],
        [48, 72, 1, 1],
        [72, 96, 1, 1],
        [96, 100, 1, 0],
      ],
    );
    assert.deepEqual(bandsOf(7, 1 << 20, 1), [{ begin: 0, end: 7, above: 0, below: 0 }]);
  });

  for (const freeze of [false, true])
    it(`gives the whole picture, to the last bit and at every seam, with ${freeze ? 'packed' : 'plain'} weights, in less memory`, async () => {
      const device = Device.create('cpu', { threads: 2 });
      const model = placed({ device }, () => new Autoencoder(config)).initialize(3);
      if (freeze) model.freeze();
      await device.sync();
      const [h, w] = [32, 20];
      const codes = Tensor.from(Float32Array.from(randomArray(5, h * w * 6)), [1, h, w, 6], 'f32', device);
      const decode = async (fn: () => Tensor) => {
        const { liveBytes } = device.resetPeak();
        const picture = scope(fn);
        const values = (await picture.read()) as Float32Array;
        picture.dispose();
        return { values, bytes: device.stats().peakBytes - liveBytes };
      };
      const whole = await decode(() => model.decode(codes));
      const bands = await decode(() => model.decodeInBands(codes, 1));
      assert.equal(whole.values.length, 16 * h * w * 3);
      assert.ok(new Set(whole.values).size > 1000, 'the picture is not constant');
      const differing = whole.values.findIndex((v, i) => v !== bands.values[i]);
      assert.equal(differing, -1, `the first difference is in row ${Math.floor(differing / (4 * w * 3))}`);
      assert.ok(bands.bytes < 0.6 * whole.bytes, `${bands.bytes} of ${whole.bytes} bytes`);
      assert.ok(
        whole.bytes > 0.5 * model.decoder.wholeBytes(4 * h, 4 * w) &&
          whole.bytes < 1.5 * model.decoder.wholeBytes(4 * h, 4 * w),
      );
      codes.dispose();
      model.dispose();
      assert.equal(device.stats().liveTensors, 0);
      device.close();
    });
});
