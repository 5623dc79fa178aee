/** What the pages of `npm run claims` are made of: statistics over seeds, plots, the distance between sets. */
import assert from 'node:assert/strict';
import type { Result } from '../../benchmarks/claims/experiment.js';
import { drawPlot, niceTicks, type Plot, tickLabel } from '../../benchmarks/claims/plot.js';
import { slicedWasserstein } from '../../benchmarks/claims/sliced_wasserstein.js';
import { interval95, over, paired, signed, spread, summarize, verdictOf } from '../../benchmarks/claims/statistics.js';

const results = (values: readonly number[], config = {}): Result[] =>
  values.map((v, i) => ({ config: { ...config, seed: i + 1 }, values: { v } }));

describe('claims: statistics', () => {
  it('interval of a mean', () => {
    // t(2) = 4.303, s = 1, n = 3.
    assert.ok(Math.abs(interval95([1, 2, 3]) - 4.303 / Math.sqrt(3)) < 1e-9);
    assert.equal(interval95([1]), Number.POSITIVE_INFINITY);
  });

  it('differences are paired by seed', () => {
    const a = results([10, 20, 30]);
    const b = [...results([9, 19, 29.5])].reverse();
    const difference = paired(a, b, 'v')!;
    assert.equal(difference.n, 3);
    assert.ok(Math.abs(difference.mean - 2.5 / 3) < 1e-9);
    assert.equal(paired(a, [{ config: { seed: 9 }, values: { v: 1 } }], 'v'), undefined);
  });

  it('a verdict needs three seeds and an interval without zero', () => {
    assert.equal(verdictOf({ n: 3, mean: 1, half: 0.5 }, 1), 'holds');
    assert.equal(verdictOf({ n: 3, mean: 1, half: 0.5 }, -1), 'does not hold in small');
    assert.equal(verdictOf({ n: 3, mean: 1, half: 2 }, 1), 'open');
    assert.equal(verdictOf({ n: 2, mean: 1, half: 0.1 }, 1), 'open');
  });

  it('numbers are written with their spread', () => {
    assert.equal(spread(over(results([1, 2, 3]), 'v'), 1), '2.0 (1.0 to 3.0)');
    assert.equal(spread(over(results([1]), 'v'), 1), '1.0');
    assert.equal(spread(over([], 'v')), '–');
    assert.equal(signed({ n: 3, mean: -0.25, half: 0.1 }, 2), '−0.25 ± 0.10 (3 seeds)');
    assert.equal(signed({ n: 1, mean: 0.25, half: Number.POSITIVE_INFINITY }, 2), '+0.25 (one seed)');
  });
});

describe('claims: plots', () => {
  it('ticks are round numbers within the range', () => {
    assert.deepEqual(niceTicks(0.13, 0.87), [0.2, 0.4, 0.6, 0.8]);
    assert.deepEqual(niceTicks(-1, 1, 4), [-1, -0.5, 0, 0.5, 1]);
    assert.equal(tickLabel(1500), '1.5k');
    assert.equal(tickLabel(2 ** 20 * 1000), '1.049G');
  });

  const plot = (over: Partial<Plot> = {}): Plot => ({
    name: 'p',
    title: 'A < B',
    x: 'x',
    y: 'y',
    series: [
      { name: 'one', points: [1, 2, 4].map((x) => ({ x, y: summarize([x, x + 1]) })) },
      { name: 'bound', reference: true, points: [{ x: 1, y: summarize([3]) }] },
    ],
    ...over,
  });

  it('every tag is closed, text is escaped, coordinates are numbers inside the picture', () => {
    for (const variant of [plot(), plot({ logX: true, logY: true }), plot({ ticks: [[1, 'a']] })]) {
      const svg = drawPlot(variant)!;
      const open = [...svg.matchAll(/<([a-z]+)[^>]*[^/]>|<([a-z]+)>/g)].length;
      const close = [...svg.matchAll(/<\/[a-z]+>/g)].length;
      assert.equal(open, close);
      assert.match(svg, /A &lt; B/);
      assert.doesNotMatch(svg, /NaN|Infinity|undefined/);
      for (const [, cx, cy] of svg.matchAll(/cx="([^"]+)" cy="([^"]+)"/g))
        assert.ok(Number(cx) >= 0 && Number(cx) <= 680 && Number(cy) >= 0 && Number(cy) <= 360);
    }
  });

  it('equal values and a single point have a place', () => {
    const series = [{ name: 'one', points: [{ x: 3, y: summarize([5]) }] }];
    assert.doesNotMatch(drawPlot(plot({ series }))!, /NaN/);
    assert.equal(drawPlot(plot({ series: [{ name: 'none', points: [] }] })), undefined);
  });
});

describe('claims: sliced Wasserstein distance', () => {
  const width = 3;
  const cloud = (shift: number): Float32Array => Float32Array.from({ length: 60 }, (_, i) => Math.sin(i * 7.3) + shift);

  it('is zero for the same points in another order, and symmetric', () => {
    const a = cloud(0);
    const rows = Array.from({ length: 20 }, (_, i) => [...a.subarray(i * width, (i + 1) * width)]);
    assert.ok(slicedWasserstein(a, Float32Array.from(rows.reverse().flat()), { width, seed: 1 }) < 1e-6);
    const b = cloud(0.5).map((v, i) => v * (1 + (i % 2)));
    const there = slicedWasserstein(a, b, { width, seed: 1 });
    assert.ok(Math.abs(there - slicedWasserstein(b, a, { width, seed: 1 })) < 1e-9);
  });

  it('of a shifted set is the root mean square of the projected shift', () => {
    // E (s . u)^2 = |s|^2 / width over the sphere: the same shift on every axis gives its size.
    assert.ok(Math.abs(slicedWasserstein(cloud(0), cloud(0.5), { width, seed: 1 }) - 0.5) < 0.05);
  });

  it('refuses sets of different sizes', () => {
    assert.throws(() => slicedWasserstein(new Float32Array(3), new Float32Array(6), { width, seed: 1 }), RangeError);
  });
});
