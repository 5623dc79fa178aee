/** `npm run kill9 -- [--kills 20] [--seed S]`: kills trainings at drawn moments; see CONTRIBUTING.md. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { killTrainings } from './trainings.js';

const text = { type: 'string' } as const;
const { values } = parseArgs({ options: { kills: text, seed: text } });
const [kills, seed] = [Number(values.kills ?? 20), Number(values.seed ?? 1)];

const root = await mkdtemp(join(tmpdir(), 'infinity-kill9-'));
let failed = 0;
let hits = 0;
try {
  const outcomes = await killTrainings(root, {
    kills: Math.ceil(kills / 2),
    seed,
    onKill: (kind, { sign, hit, found }) =>
      console.log(`${kind}: ${hit ? 'killed' : 'ended before'} (${sign}), left ${found}`),
  });
  for (const { kind, kills: done, killed, unbroken } of outcomes) {
    hits += done.filter(({ hit }) => hit).length;
    try {
      assert.deepEqual(killed, unbroken);
      console.log(
        `${kind}: ${(unbroken.steps as unknown[]).length} steps and every file equal those of the unbroken run`,
      );
    } catch (error) {
      failed++;
      console.log(`${kind}: ${(error as Error).message}`);
    }
  }
} finally {
  await rm(root, { recursive: true, force: true });
}
console.log(`${hits} kills, ${failed} trainings that differ`);
process.exitCode = failed === 0 ? 0 : 1;
