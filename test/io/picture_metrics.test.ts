import assert from 'node:assert/strict';
import { psnr, ssim } from '../../lib/io/picture_metrics.js';
import type { Pixels } from '../../lib/io/pixels.js';
import { randomArray } from '../support/numeric.js';

function picture(height: number, width: number, value: (i: number) => number): Pixels {
  return { height, width, data: Uint8Array.from({ length: height * width * 3 }, (_, i) => value(i)) };
}
const noise = (seed: number, height: number, width: number): Pixels => {
  const values = randomArray(seed, height * width * 3, 127);
  return picture(height, width, (i) => 128 + values[i]!);
};

/** The definition, window by window: weights of 11 x 11 that sum to one, centred moments. */
function definedSsim(a: Pixels, b: Pixels): number {
  const luma = ({ width, data }: Pixels, y: number, x: number): number => {
    const at = 3 * (y * width + x);
    return 0.299 * data[at]! + 0.587 * data[at + 1]! + 0.114 * data[at + 2]!;
  };
  const weight = (i: number, j: number): number => Math.exp(-(i * i + j * j) / (2 * 1.5 * 1.5));
  let [sum, places] = [0, 0];
  for (let y = 5; y < a.height - 5; y++)
    for (let x = 5; x < a.width - 5; x++) {
      const window: [w: number, p: number, q: number][] = [];
      for (let i = -5; i <= 5; i++)
        for (let j = -5; j <= 5; j++) window.push([weight(i, j), luma(a, y + i, x + j), luma(b, y + i, x + j)]);
      const total = window.reduce((s, [w]) => s + w, 0);
      const mean = (f: (p: number, q: number) => number) => window.reduce((s, [w, p, q]) => s + w * f(p, q), 0) / total;
      const [mp, mq] = [mean((p) => p), mean((_, q) => q)];
      const [vp, vq] = [mean((p) => (p - mp) ** 2), mean((_, q) => (q - mq) ** 2)];
      const cov = mean((p, q) => (p - mp) * (q - mq));
      const [c1, c2] = [6.5025, 58.5225];
      sum += ((2 * mp * mq + c1) * (2 * cov + c2)) / ((mp ** 2 + mq ** 2 + c1) * (vp + vq + c2));
      places++;
    }
  return sum / places;
}

describe('picture metrics', () => {
  it('psnr of a known error', () => {
    const black = picture(3, 5, () => 0);
    assert.equal(
      psnr(
        black,
        picture(3, 5, () => 255),
      ),
      0,
    );
    assert.ok(
      Math.abs(
        psnr(
          black,
          picture(3, 5, (i) => Number(i === 0)),
        ) -
          10 * Math.log10(255 ** 2 * 45),
      ) < 1e-12,
    );
    assert.equal(psnr(black, black), Number.POSITIVE_INFINITY);
  });

  it('ssim is its definition', async () => {
    const a = noise(1, 14, 17);
    const near = picture(14, 17, (i) => Math.max(0, a.data[i]! - (i % 23)));
    for (const b of [noise(2, 14, 17), near]) assert.ok(Math.abs((await ssim(a, b)) - definedSsim(a, b)) < 1e-12);
    assert.ok(Math.abs((await ssim(a, a)) - 1) < 1e-12);
    assert.ok((await ssim(a, near)) > 0.5 && (await ssim(a, noise(2, 14, 17))) < 0.2);
    // More rows of windows than are taken at once.
    const [tall, other] = [noise(3, 77, 12), noise(4, 77, 12)];
    assert.ok(Math.abs((await ssim(tall, other)) - definedSsim(tall, other)) < 1e-12);
  });

  it('ssim of flat pictures compares their level alone, at any size', async () => {
    for (const [height, width] of [
      [1, 1],
      [4, 30],
      [11, 11],
      [16, 8],
    ] as const) {
      const flat = (level: number) => picture(height, width, () => level);
      const expected = (2 * 100 * 150 + 6.5025) / (100 ** 2 + 150 ** 2 + 6.5025);
      assert.ok(Math.abs((await ssim(flat(100), flat(150))) - expected) < 1e-9, `${height} x ${width}`);
    }
  });

  it('refuse pictures of two sizes', async () => {
    assert.throws(() => psnr(noise(1, 4, 6), noise(1, 6, 4)), { code: 'INVALID_ARGUMENT' });
    await assert.rejects(ssim(noise(1, 4, 6), noise(1, 6, 4)), { code: 'INVALID_ARGUMENT' });
  });
});
