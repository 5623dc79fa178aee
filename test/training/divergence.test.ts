import assert from 'node:assert/strict';
import { DIVERGENCE, DivergenceWatch } from '../../lib/training/divergence.js';

/** Normal numbers from a small generator, the same in every run. */
function* noise(seed: number): Generator<number> {
  let state = seed;
  const uniform = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  for (;;) yield Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

/** The step at which a loss stops the watch. */
function stopOf(loss: (step: number) => number, steps: number, watch = new DivergenceWatch()): number | undefined {
  for (let step = 1; step <= steps; step++) {
    watch.add(step, loss(step));
    if (watch.diverged) return step;
  }
  return undefined;
}

describe('divergence', () => {
  it('is a loss that stays far above its level, from the first step above on', () => {
    const watch = new DivergenceWatch({ factor: 1.5, steps: 50 });
    const step = stopOf((s) => (s <= 300 ? 0.4 : 0.7), 1000, watch);
    assert.equal(step, 350);
    assert.equal(watch.high!.since, 301);
    assert.ok(Math.abs(watch.high!.level - 0.4) < 1e-12 && Math.abs(watch.high!.limit - 0.6) < 1e-12);
  });

  it('is found by default when the bits of a transformer fall back to chance', () => {
    const random = noise(1);
    const loss = (s: number): number => (s < 2000 ? 0.35 : Math.LN2) * (1 + 0.05 * random.next().value!);
    assert.equal(stopOf(loss, 4000), 1999 + DIVERGENCE.steps);
  });

  it('is not seen in a falling, noisy, spiking or slowly moving loss', () => {
    for (let seed = 1; seed <= 5; seed++) {
      const random = noise(seed);
      const normal = (): number => random.next().value!;
      const falling = (s: number): number => (0.2 + 0.5 * Math.exp(-s / 400)) * (1 + 0.3 * normal());
      const heavy = (): number => 0.05 * Math.exp(1.2 * normal());
      const spiking = (s: number): number => (s % 500 < 150 && s > 400 ? 30 : 0.3) + 0.02 * normal();
      const signed = (s: number): number => 0.5 * Math.sin(s / 900) + 0.2 * normal();
      for (const loss of [falling, heavy, spiking, signed]) assert.equal(stopOf(loss, 6000), undefined);
    }
  });

  it('can be switched off, and begins anew with another part of the training', () => {
    assert.equal(
      stopOf((s) => (s < 100 ? 1 : 100), 1000, new DivergenceWatch({ factor: 1.5, steps: 0 })),
      undefined,
    );
    const watch = new DivergenceWatch({ factor: 1.5, steps: 50 });
    for (let step = 1; step <= 1000; step++) {
      watch.add(step, step <= 500 ? 1 : 5, step <= 500 ? 'first' : 'second');
      assert.equal(watch.high, undefined, `step ${step}`);
    }
  });
});
