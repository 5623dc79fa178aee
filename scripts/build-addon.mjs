// Builds node_infinity.node with cmake-js: `node scripts/build-addon.mjs [Release|Debug]`. Also the action of binding.gyp.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('..', import.meta.url)).replace(/[\\/]$/, '');

/** Runs cmake-js; `stdio` is spawnSync's. Returns spawnSync's result. */
export function buildAddon(configuration, stdio) {
  const cmakeJs = createRequire(import.meta.url).resolve('cmake-js/bin/cmake-js');
  const args = [cmakeJs, 'build', '-B', configuration, '-O', join(root, 'build/cmake')];
  args.push(`--CDCMAKE_LIBRARY_OUTPUT_DIRECTORY=${join(root, 'build', configuration)}`);
  // cmake-js passes no --parallel on; cmake reads this variable instead.
  const env = { CMAKE_BUILD_PARALLEL_LEVEL: String(availableParallelism()), ...process.env };
  return spawnSync(process.execPath, args, { cwd: root, env, stdio, encoding: 'utf8', maxBuffer: 1 << 28 });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.exitCode = buildAddon(process.argv[2] ?? 'Release', 'inherit').status ?? 1;
}
