import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { loadImage } from '../../lib/io/image.js';
import { fromSignedFloat, type Pixels, toSignedFloat } from '../../lib/io/pixels.js';
import { resizeCenterCrop } from '../../lib/io/resize.js';
import { parseSafetensors } from '../../lib/io/safetensors.js';
import { type TensorData, toFloat32 } from '../../lib/io/tensor_data.js';
import { readGoldenJson, requireGolden } from '../support/goldens.js';
import { photoPath } from '../support/photos.js';

interface Item {
  name: string;
  tgt_h: number;
  tgt_w: number;
  photo?: string;
}

function picture(width: number, height: number, value: (x: number, y: number, c: number) => number): Pixels {
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) =>
    value(Math.floor(i / 3) % width, Math.floor(i / 3 / width), i % 3),
  );
  return { width, height, data };
}

describe('picture preparation', () => {
  function golden(context: Mocha.Context): { items: Item[]; tensor: (name: string) => TensorData } {
    const { config } = readGoldenJson<{ config: { items: Item[] } }>(context, 'tokenizer/preprocess.json');
    const tensors = parseSafetensors(readFileSync(requireGolden(context, 'tokenizer/preprocess.safetensors')));
    return { items: config.items, tensor: (name) => tensors.get(name) ?? assert.fail(`no tensor ${name}`) };
  }

  it('gives the bytes of the reference for synthetic pictures', function () {
    const { items, tensor } = golden(this);
    const synthetic = items.filter(({ photo }) => !photo);
    assert.equal(synthetic.length, 3);
    for (const { name, tgt_h, tgt_w } of synthetic) {
      const { shape, data } = tensor(`in.${name}.image_u8`);
      const cropped = resizeCenterCrop({ height: shape[0], width: shape[1], data }, tgt_h, tgt_w);
      assert.deepEqual(cropped.data, new Uint8Array(tensor(`out.${name}.crop_u8`).data), name);
    }
  });

  it('gives the values of the reference', function () {
    const { tensor } = golden(this);
    const { shape, data } = tensor('out.b.crop_u8');
    const [height, width] = shape;
    const expected = toFloat32(tensor('out.b.tensor'));
    const got = toSignedFloat(data);
    for (let i = 0; i < height * width; i++) {
      for (let c = 0; c < 3; c++) assert.equal(got[i * 3 + c], expected[c * height * width + i]);
    }
  });

  it('stays within four steps of the reference for photos', async function () {
    const { items, tensor } = golden(this);
    const photos = items.filter(({ photo }) => photo && photoPath(photo));
    if (photos.length === 0) this.skip();
    for (const { name, photo = '', tgt_h, tgt_w } of photos) {
      const cropped = resizeCenterCrop(await loadImage(photoPath(photo) ?? ''), tgt_h, tgt_w);
      const expected = tensor(`out.${name}.crop_u8`).data;
      assert.equal(cropped.data.length, expected.length);
      const worst = cropped.data.reduce((max, v, i) => Math.max(max, Math.abs(v - expected[i])), 0);
      assert.ok(worst <= 4, `${photo}: ${worst}`);
    }
  });

  it('agrees with the definition of the filter in double precision, shrinking and growing', () => {
    // Values around the middle, so that no pass clips; then only two roundings to bytes separate the results.
    const smooth = picture(23, 17, (x, y, c) => 128 + 60 * Math.sin(x * 0.9 + c) * Math.cos(y * 0.7));
    const lanczos = (x: number) => {
      if (x === 0) return 1;
      const a = Math.PI * x;
      return Math.abs(x) < 3 ? (3 * Math.sin(a) * Math.sin(a / 3)) / (a * a) : 0;
    };
    const weights = (source: number, target: number, i: number) => {
      const stretch = Math.max(source / target, 1);
      const center = ((i + 0.5) * source) / target - 0.5;
      const raw = Array.from({ length: source }, (_, j) => lanczos((j - center) / stretch));
      const sum = raw.reduce((a, b) => a + b, 0);
      return raw.map((w) => w / sum);
    };
    for (const [height, width] of [
      [34, 46],
      [17, 23],
      [9, 12],
      [5, 7],
    ]) {
      const got = resizeCenterCrop(smooth, height, width);
      // The covering size before the crop.
      const wide =
        smooth.width / smooth.height <= width / height ? width : Math.trunc((smooth.width / smooth.height) * height);
      const tall =
        smooth.width / smooth.height <= width / height ? Math.trunc(width / (smooth.width / smooth.height)) : height;
      const [top, left] = [Math.floor((tall - height) / 2), Math.floor((wide - width) / 2)];
      for (let y = 0; y < height; y++) {
        const rows = weights(smooth.height, tall, y + top);
        for (let x = 0; x < width; x++) {
          const columns = weights(smooth.width, wide, x + left);
          let expected = 0;
          for (const [sy, wy] of rows.entries()) {
            for (const [sx, wx] of columns.entries()) expected += wy * wx * smooth.data[(sy * smooth.width + sx) * 3];
          }
          const value = got.data[(y * width + x) * 3];
          assert.ok(Math.abs(value - expected) <= 1.25, `${height} x ${width} at ${y}, ${x}: ${value} for ${expected}`);
        }
      }
    }
  });

  it('keeps a picture of the right size, a crop of it, and a constant one at any size', () => {
    const noise = picture(9, 7, (x, y, c) => (x * 37 + y * 91 + c * 53) % 256);
    assert.deepEqual(resizeCenterCrop(noise, 7, 9).data, noise.data);
    const middle = resizeCenterCrop(noise, 7, 3);
    assert.deepEqual(middle.data, picture(3, 7, (x, y, c) => noise.data[(y * 9 + x + 3) * 3 + c]).data);
    const side = fc.integer({ min: 1, max: 40 });
    fc.assert(
      fc.property(side, side, side, side, fc.nat(255), (w, h, tw, th, v) => {
        const result = resizeCenterCrop(
          picture(w, h, () => v),
          th,
          tw,
        );
        assert.equal(result.data.length, tw * th * 3);
        assert.ok(result.data.every((got) => got === v));
      }),
    );
  });

  it('bytes survive the way into the value range and back', () => {
    const all = picture(256, 1, (x) => x);
    const values = toSignedFloat(all.data);
    assert.equal(values[0], -1);
    assert.equal(values.at(-1), 1);
    // Truncation may lose one step to rounding, never more.
    const back = fromSignedFloat(values, 1, 256);
    assert.ok(back.data.every((v, i) => v === all.data[i] || v === all.data[i] - 1));
    assert.deepEqual([...fromSignedFloat(Float32Array.of(-3, 0, 7), 1, 1).data], [0, 127, 255]);
  });

  it('refuses sizes and pictures that are none', () => {
    const good = picture(2, 2, () => 0);
    for (const side of [0, -1, 1.5, Number.NaN, 1e6]) {
      assert.throws(() => resizeCenterCrop(good, side, 2), { code: 'INVALID_ARGUMENT' });
    }
    assert.throws(() => resizeCenterCrop({ width: 2, height: 2, data: new Uint8Array(5) }, 2, 2), {
      code: 'IMAGE_INVALID',
    });
  });
});
