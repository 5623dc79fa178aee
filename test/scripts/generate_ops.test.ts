import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { packageRoot } from '../../lib/native.js';

describe('generate-ops', () => {
  it('the committed ids are those of native/ops.def (npm run generate:ops)', () => {
    const script = join(packageRoot(), 'scripts/generate-ops.mjs');
    const { status, stderr } = spawnSync(process.execPath, [script, '--check'], { encoding: 'utf8' });
    assert.equal(status, 0, stderr);
  });
});
