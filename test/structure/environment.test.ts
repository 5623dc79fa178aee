/** Every environment switch stands in the table of README.md, and every switch of the table exists. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../lib/native.js';

const SWITCH = /\bNODE_INFINITY_[A-Z_]+\b/g;

function switchesBelow(folder: string): string[] {
  const root = join(packageRoot(), folder);
  const files = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter((name) =>
    /\.(ts|mjs|cc|h)$/.test(name),
  );
  return files.flatMap((file) => readFileSync(join(root, file), 'utf8').match(SWITCH) ?? []);
}

describe('environment switches', () => {
  it('stand in the table of README.md', () => {
    // Two are options of the CMake build, which scripts/test-native.mjs passes on its command line.
    const buildOptions = ['NODE_INFINITY_BUILD_TESTS', 'NODE_INFINITY_SANITIZE'];
    const used = new Set(['lib', 'native', 'scripts', 'test', 'benchmarks'].flatMap(switchesBelow));
    for (const option of buildOptions) used.delete(option);
    const readme = readFileSync(join(packageRoot(), 'README.md'), 'utf8');
    const rows = readme.split('\n').filter((line) => /^\| `NODE_INFINITY_/.test(line));
    const listed = rows.flatMap((row) => row.split(' | ')[0]!.match(SWITCH) ?? []);
    assert.ok(used.has('NODE_INFINITY_THREADS'), 'the search finds the switches');
    assert.deepEqual([...used].sort(), listed.sort());
  });
});
