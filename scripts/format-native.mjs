// clang-format over native/: `--check` only reports. Says so and succeeds where clang-format is not installed.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './build-addon.mjs';

const tool = ['clang-format-14', 'clang-format'].find((name) => spawnSync(name, ['--version']).status === 0);
const files = readdirSync(join(root, 'native'), { recursive: true }).filter((name) => /\.(cc|h|cu|cuh)$/.test(name));

if (!tool) {
  console.error('clang-format was not found: C++ formatting is left alone');
} else if (files.length > 0) {
  const mode = process.argv.includes('--check') ? ['--dry-run', '--Werror'] : ['-i'];
  const { status } = spawnSync(tool, [...mode, ...files], { cwd: join(root, 'native'), stdio: 'inherit' });
  process.exitCode = status ?? 1;
}
