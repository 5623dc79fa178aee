import assert from 'node:assert/strict';
import fc from 'fast-check';
import type { Pixels } from '../../lib/io/pixels.js';
import { blend, blendWeights, checkPlace, placed, redrawnPixels, redrawnPositions } from '../../lib/pipeline/mask.js';

/** A picture of grey pixels. */
function grey(rows: readonly (readonly number[])[]): Pixels {
  const data = Uint8Array.from(rows.flat().flatMap((v) => [v, v, v]));
  return { height: rows.length, width: rows[0]!.length, data };
}
const whole = { top: 0, left: 0, height: 3, width: 4 };

const masks = fc
  .tuple(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 12 }), fc.integer({ min: 0, max: 5 }))
  .chain(([h, w, band]) =>
    fc.record({
      size: fc.constant([h, w] as const),
      band: fc.constant(band),
      redrawn: fc.array(fc.constantFrom(0, 0, 0, 0, 1), { minLength: h * w, maxLength: h * w }),
    }),
  );

describe('masks', () => {
  it('fade with the distance to the nearest redrawn pixel, to nothing beyond the band', () => {
    fc.assert(
      fc.property(masks, ({ size: [h, w], band, redrawn }) => {
        const weights = blendWeights(Uint8Array.from(redrawn), [h, w], band);
        for (let y = 0; y < h; y++)
          for (let x = 0; x < w; x++) {
            const distances = redrawn.flatMap((r, i) =>
              r ? [Math.max(Math.abs(Math.floor(i / w) - y), Math.abs((i % w) - x))] : [],
            );
            const expected = 1 - Math.min(band + 1, ...distances) / (band + 1);
            assert.equal(weights[y * w + x], Math.fround(expected), `${y}, ${x}`);
          }
      }),
    );
  });

  it('blend exactly at both ends', () => {
    const [plain, drawn] = [grey([[10, 20, 30, 41]]), grey([[250, 120, 0, 40]])];
    const mixed = blend(plain, drawn, Float32Array.of(0, 1, 0.5, 0.25));
    assert.deepEqual(mixed, grey([[10, 120, 15, 41]]));
  });

  it('are white from the middle on, and must show something white', () => {
    const picture = grey([
      [0, 0, 0, 0],
      [0, 0, 0, 0],
      [0, 0, 0, 0],
    ]);
    const mask = grey([
      [0, 127, 128, 255],
      [0, 0, 0, 0],
      [0, 0, 0, 0],
    ]);
    assert.deepEqual([...redrawnPixels(mask, picture, [3, 4], whole)], [0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert.throws(() => redrawnPixels(picture, picture, [3, 4], whole), { code: 'INVALID_ARGUMENT', message: /white/ });
    for (const wrong of [grey([[255]]), { ...mask, data: mask.data.subarray(1) }, 'mask.png', null])
      assert.throws(() => redrawnPixels(wrong as Pixels, picture, [3, 4], whole), {
        code: 'INVALID_ARGUMENT',
        message: /3x4 pixels, as the picture/,
      });
  });

  it('redraw all around the place of the picture', () => {
    const place = { top: 1, left: 0, height: 1, width: 2 };
    const picture = grey([[7, 9]]);
    assert.deepEqual([...redrawnPixels(undefined, picture, [3, 3], place)], [1, 1, 1, 0, 0, 1, 1, 1, 1]);
    assert.deepEqual([...redrawnPixels(grey([[0, 255]]), picture, [3, 3], place)], [1, 1, 1, 0, 1, 1, 1, 1, 1]);
    assert.deepEqual(
      placed(picture, [3, 3], place),
      grey([
        [7, 9, 9],
        [7, 9, 9],
        [7, 9, 9],
      ]),
    );
    checkPlace(place, [3, 3]);
    for (const wrong of [{ top: 3 }, { left: -1 }, { width: 4 }, { height: 0 }, { top: 0.5 }, { left: undefined }])
      assert.throws(() => checkPlace({ ...place, ...wrong } as typeof place, [3, 3]), { code: 'INVALID_ARGUMENT' });
  });

  it('redraw a latent position for any pixel of it', () => {
    const redrawn = Uint8Array.of(0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);
    assert.deepEqual([...redrawnPositions(redrawn, [4, 4], 2)], [1, 0, 0, 1]);
    assert.deepEqual([...redrawnPositions(redrawn, [4, 4], 1)], [...redrawn]);
  });
});
