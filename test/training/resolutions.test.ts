import assert from 'node:assert/strict';
import { InfinityError } from '../../lib/errors.js';
import { formatGrids } from '../../lib/tokenizer/schedule.js';
import { largestOf, resolutionAt, resolutionsOf, type SizesConfig } from '../../lib/training/resolutions.js';

/** Stage 2 of the published recipe. */
const stage2: SizesConfig = {
  dataset: { kind: 'folder', path: 'pictures', seed: 1, size: 1024 },
  batch_size: 8,
  schedule: 'dense',
  resolutions: [
    { size: 256, batch_size: 8 },
    { size: 512, batch_size: 4 },
    { size: 1024, batch_size: 2 },
  ],
};

describe('resolutions', () => {
  it('are those of the published stage 2, each with its dense schedule', () => {
    const found = resolutionsOf(stage2, 16);
    assert.deepEqual(
      found.map(({ size, batch, schedule }) => [size, batch, schedule.length, schedule.at(-1)]),
      [
        [[256, 256], 8, 16, [1, 16, 16]],
        [[512, 512], 4, 20, [1, 32, 32]],
        [[1024, 1024], 2, 24, [1, 64, 64]],
      ],
    );
    assert.deepEqual(largestOf(found).size, [1024, 1024]);
  });

  it('take turns equally often, by the number of the step alone', () => {
    const found = resolutionsOf(stage2, 16);
    const counts = new Map(found.map((resolution) => [resolution, 0]));
    for (let step = 0; step < 6000; step++) {
      const at = resolutionAt(found, 3, step);
      assert.equal(resolutionAt(found, 3, step), at);
      counts.set(at, counts.get(at)! + 1);
    }
    // Six standard deviations of a binomial count.
    for (const count of counts.values()) assert.ok(Math.abs(count - 2000) < 6 * Math.sqrt((6000 * 2) / 9), `${count}`);
    const turns = (seed: number): number[] =>
      Array.from({ length: 40 }, (_, step) => found.indexOf(resolutionAt(found, seed, step)));
    assert.notDeepEqual(turns(3), turns(4));
  });

  it('are served by explicit grids up to their own', () => {
    const grids = '1 2 4x2 8x4';
    const [small, large] = resolutionsOf(
      {
        dataset: { kind: 'folder', path: 'p', seed: 1, size: [64, 32] },
        batch_size: 2,
        schedule: grids,
        resolutions: [
          { size: [32, 16], batch_size: 2 },
          { size: [64, 32], batch_size: 1 },
        ],
      },
      8,
    );
    assert.equal(formatGrids(small!.schedule), '1 2 4x2');
    assert.equal(formatGrids(large!.schedule), grids);
  });

  it('are the size of the dataset alone where none are listed', () => {
    const { resolutions: _, ...one } = stage2;
    const found = resolutionsOf({ ...one, schedule: 'dynamic' }, 16);
    assert.equal(found.length, 1);
    assert.equal(formatGrids(found[0]!.schedule), '1 2 4 6 8 12 16 20 24 32 40 48 64');
    assert.equal(resolutionAt(found, 1, 17), found[0]);
  });

  it('that do not fit are refused by name', () => {
    const two = (a: object, b: object) => ({ resolutions: [a, b] as never });
    const wrong: [object, RegExp][] = [
      [two({ size: 256, batch_size: 8 }, { size: 512, batch_size: 4 }), /1024.*resolutions/],
      [two({ size: 1024, batch_size: 2 }, { size: 500, batch_size: 4 }), /multiples of 16.*resolutions/],
      [two({ size: 1024, batch_size: 2 }, { size: [512, 256], batch_size: 4 }), /proportions.*resolutions/],
      [two({ size: 1024, batch_size: 9 }, { size: 512, batch_size: 4 }), /at most 8.*resolutions/],
      [two({ size: 1024, batch_size: 2 }, { size: 768, batch_size: 4 }), /48 x 48.*64x64.*'schedule'/],
      [{ schedule: '1 2 64' }, /16 x 16.*'schedule'/],
      [{ resolutions: undefined, schedule: '1 2 16' }, /256 x 256.*dataset\.size/],
      [{ resolutions: undefined, dataset: { ...stage2.dataset, size: 1000 } }, /multiples of 16.*dataset\.size/],
    ];
    for (const [change, field] of wrong)
      assert.throws(
        () => resolutionsOf({ ...stage2, ...change }, 16),
        (e: unknown) => {
          assert.ok(e instanceof InfinityError && e.code === 'INVALID_ARGUMENT' && e.cure !== undefined, String(e));
          assert.match(e.message, field);
          return true;
        },
      );
  });
});
