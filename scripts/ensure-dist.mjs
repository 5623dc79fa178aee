// Compiles lib/ to dist/ when dist/ is missing or was made from other sources.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { root } from './build-addon.mjs';
import { sourceHash } from './source-hash.mjs';

const stamp = join(root, 'build/dist.hash');
const hash = sourceHash(root, ['lib', 'tsconfig.json', 'tsconfig.build.json']);
const built = existsSync(join(root, 'dist/index.js')) && existsSync(stamp) ? readFileSync(stamp, 'utf8') : '';

if (built !== hash) {
  console.error('node-infinity: compiling TypeScript');
  rmSync(stamp, { force: true });
  rmSync(join(root, 'dist'), { recursive: true, force: true });
  const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc');
  const { status } = spawnSync(process.execPath, [tsc, '-p', join(root, 'tsconfig.build.json')], {
    // Diagnostics go to stderr: stdout belongs to the command that runs next.
    stdio: ['ignore', 2, 2],
  });
  if (status === 0) {
    mkdirSync(join(root, 'build'), { recursive: true });
    writeFileSync(stamp, hash);
  }
  process.exitCode = status ?? 1;
}
