/** Every reader meets some hundred files that somebody else might have made; `npm run fuzz` shows it many more. */
import assert from 'node:assert/strict';
import { InfinityError } from '../../lib/errors.js';
import { FuzzFailure, fuzzedFile, judge, LIMITS } from './harness.js';
import { fuzz } from './supervise.js';
import { targets } from './targets/index.js';

const COUNT = 300;
const SEED = 20_261_123;

describe('readers of foreign files', () => {
  for (const target of targets) {
    it(`${target.name}: takes valid files and refuses the others with an InfinityError`, async function () {
      this.timeout(120_000);
      // In a process of its own, as the long runs: what others leave on the heap is not the reader's.
      const report = await fuzz({ reader: target.name, seed: SEED, start: 0, count: COUNT });
      const failures = report.failures.map(({ index, what }) => `${what} (--start ${index} --count 1)`);
      assert.deepEqual(failures, [], `npm run fuzz -- --reader ${target.name} --seed ${SEED}`);
      assert.ok(report.accepted > 0 && report.accepted < COUNT, `${report.accepted} of ${COUNT} accepted`);
    });
  }

  it('makes the same file of an index every time', async () => {
    for (const target of targets) {
      const [a, b] = [await target.seeds(), await target.seeds()];
      for (const index of [0, 17, 18])
        assert.deepEqual(fuzzedFile(target, a, 1, index), fuzzedFile(target, b, 1, index));
    }
  });
});

describe('the judge of readers', () => {
  const reader = (read: () => void) => ({ name: 'broken', seeds: () => [Buffer.alloc(9)], read });
  const judged = (read: () => void, limits = LIMITS) => judge(reader(read), Buffer.alloc(9), limits);

  it('refuses any other exception', async () => {
    await assert.rejects(
      judged(() => JSON.parse('{')),
      FuzzFailure,
    );
    await assert.rejects(
      judged(() => {
        throw new InfinityError('INTERNAL', 'impossible');
      }),
      FuzzFailure,
    );
    const refusal = () => {
      throw new InfinityError('CHECKPOINT_INVALID', 'no');
    };
    assert.equal((await judged(refusal)).accepted, false);
  });

  it('refuses a reader that fills the memory', async () => {
    const held: Uint8Array[] = [];
    await assert.rejects(
      judged(() => void held.push(new Uint8Array(256 << 20))),
      /bytes of memory/,
    );
  });

  it('refuses a reader that takes too long', async () => {
    const spin = () => {
      const begin = process.cpuUsage().user;
      while (process.cpuUsage().user - begin < 6000);
    };
    await assert.rejects(judged(spin, { ...LIMITS, milliseconds: 5 }), /took \d+ ms/);
  });

  it('outlives a reader that hangs or ends the process', async function () {
    this.timeout(60_000);
    const run = {
      seed: 1,
      start: 0,
      count: 3,
      patience: 5000,
      targets: new URL('./broken_targets.ts', import.meta.url).href,
    };
    const { failures } = await fuzz({ ...run, reader: 'crashing' });
    assert.deepEqual(failures, [{ index: 1, what: 'ended its process (3)' }]);
    assert.deepEqual((await fuzz({ ...run, reader: 'hanging' })).failures, [{ index: 1, what: 'hangs' }]);
  });
});
