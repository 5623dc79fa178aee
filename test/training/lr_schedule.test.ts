import assert from 'node:assert/strict';
import { InfinityError } from '../../lib/errors.js';
import { lrFactor, weightDecayAt } from '../../lib/training/lr_schedule.js';

describe('learning rate schedule', () => {
  const lin0 = { schedule: 'lin0', warmupIterations: 10, maxIterations: 1000, startFactor: 0.005, endFactor: 0.3 };
  it('equals the recorded values of lin0 with warm-up', () => {
    const recorded: [number, number][] = [
      [0, 0.005],
      [5, 0.5025],
      [10, 1],
      [50, 1],
      [60, 0.9996],
      [500, 0.6718],
      [999, 0.3],
    ];
    for (const [iteration, factor] of recorded)
      assert.ok(Math.abs(lrFactor(iteration, lin0) - factor) < 5e-5, `iteration ${iteration}`);
  });
  it('every schedule ends at its end factor', () => {
    for (const schedule of ['lin0', 'lin', 'lin00', 'lin0.4', 'cos', 'exp'])
      assert.ok(Math.abs(lrFactor(999, { ...lin0, schedule }) - 0.3) < 1e-12, schedule);
  });
  it('step drops once, as the published tokenizers train: by 0.1 at step 450,000 of 500,000', () => {
    const step = { schedule: 'step0.9', warmupIterations: 0, maxIterations: 500000, startFactor: 1, endFactor: 0.1 };
    assert.deepEqual(
      [0, 1, 449999, 450000, 499999].map((iteration) => lrFactor(iteration, step)),
      [1, 1, 1, 0.1, 0.1],
    );
  });
  it('refuses an unknown name', () => {
    assert.throws(
      () => lrFactor(50, { ...lin0, schedule: 'sawtooth' }),
      (e: unknown) => e instanceof InfinityError && e.code === 'INVALID_ARGUMENT' && e.value === 'sawtooth',
    );
  });
  it('weight decay moves on half a cosine', () => {
    assert.equal(weightDecayAt(0, 11, 0.05, 0.01), 0.05);
    assert.ok(Math.abs(weightDecayAt(5, 11, 0.05, 0.01) - 0.03) < 1e-12);
    assert.ok(Math.abs(weightDecayAt(10, 11, 0.05, 0.01) - 0.01) < 1e-12);
  });
});
