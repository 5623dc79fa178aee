import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { killTrainings } from './trainings.js';

describe('trainings that are killed', () => {
  let root: string;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-kill9-'));
  });
  after(() => rm(root, { recursive: true, force: true }));

  it('go on, and leave what a run without a break leaves', async function () {
    // Four processes are started, each of which compiles the sources first.
    this.timeout(120_000);
    for (const { kind, killed, unbroken } of await killTrainings(root, { kills: 2, seed: 3 })) {
      assert.ok((unbroken.steps as unknown[]).length === 10, kind);
      assert.deepEqual(killed, unbroken, kind);
    }
  });
});
