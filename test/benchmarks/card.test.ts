/** A minute on a card is dear: the benchmarks run here first, at tiny sizes. */
import assert from 'node:assert/strict';
import { block } from '../../benchmarks/card/block.js';
import { casesOf, squareSchedule } from '../../benchmarks/card/cases.js';
import { kernels } from '../../benchmarks/card/kernels.js';
import { compare } from '../../benchmarks/card/table.js';
import { train } from '../../benchmarks/card/train.js';
import type { Row } from '../../benchmarks/harness.js';
import { templateSchedule } from '../../lib/tokenizer/schedule.js';
import { CUDA } from '../support/numeric.js';

describe('benchmarks of a card', () => {
  it('measure the published scales of square pictures, every case under a name of its own', () => {
    for (const budget of ['0.06M', '0.25M', '1M'] as const) {
      const published = templateSchedule(1, budget);
      assert.deepEqual(squareSchedule(published.length), published);
    }
    for (const short of [true, false]) {
      const names = casesOf(short).kernels.map(({ name }) => name);
      assert.equal(new Set(names).size, names.length);
    }
    const kinds = (short: boolean) => new Set(casesOf(short).kernels.map(({ kind }) => kind));
    assert.deepEqual([...kinds(true)].sort(), [...kinds(false)].sort());
  });

  it('are told as ratios to the fastest peer of a kind and as fractions of the higher ceiling', () => {
    const ours: Record<string, string | number>[] = [
      { name: 'copy of 1 MiB', median_ms: 2, mbyte: 2 },
      { name: 'x', median_ms: 4, mbyte: 2, launches: 3 },
      { name: 'x', median_ms: 9, mbyte: 2 },
    ];
    const peers: Record<string, string | number>[] = [
      { name: 'copy of 1 MiB', peer: 'copy', median_ms: 1, mbyte: 2 },
      { name: 'x', peer: 'eager', median_ms: 10 },
      { name: 'x', peer: 'compiled:flash', median_ms: 6 },
      { name: 'x', peer: 'compiled:flex', median_ms: 2 },
      { name: 'y', peer: 'eager', error: 'out of memory' },
    ];
    const [, x, ...more] = compare(ours, peers);
    assert.deepEqual(more, []);
    const told = { ms: 4, 'over eager': 2.5, 'over compiled': 0.5, 'of floor': 0.25, 'peak MiB': '', launches: 3 };
    assert.deepEqual(x, { name: 'x', ...told });
  });

  describe(`on ${CUDA}`, function () {
    this.timeout(120_000);
    before(function () {
      if (!process.env.NODE_INFINITY_CUDA_LIBRARY) this.skip(); // needs NODE_INFINITY_CUDA_LIBRARY
    });

    for (const [name, level, least] of [
      ['kernels', kernels, casesOf(true).kernels.length + 3],
      ['block', block, 2 + casesOf(true).block.scales],
      ['train', train, 2 + 4],
    ] as const)
      it(`${name}: every figure is a number, every time and its floor above 0`, async () => {
        const rows: Row[] = [];
        for await (const row of level({ short: true })) rows.push(row);
        assert.equal(rows.length, least);
        for (const row of rows) {
          assert.ok(Number(row.median_ms) > 0 && Number(row.floor_ms) > 0, JSON.stringify(row));
          for (const [key, value] of Object.entries(row)) assert.ok(key === 'name' || Number.isFinite(value), key);
        }
        assert.ok(rows.every(({ launches }) => launches === undefined || Number(launches) > 0));
      });
  });
});
