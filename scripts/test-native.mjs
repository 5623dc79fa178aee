// Builds native/tests/*_test.cc under sanitizers and runs them. The last line of output is JSON: {"passed":n,"failed":n}.
// `node scripts/test-native.mjs [address|thread] [name...]` runs one sanitizer, or only the tests whose name contains a word.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { root } from './build-addon.mjs';

const isSanitizer = (word) => word === 'address' || word === 'thread';
const words = process.argv.slice(2);
const names = words.filter((word) => !isSanitizer(word));
const sanitizers = words.some(isSanitizer) ? words.filter(isSanitizer) : ['address', 'thread'];

// Only what runs on several threads has something to say to TSan; kernels are pure functions under ASan and UBSan.
const concurrent = ['queue', 'pool', 'storage', 'device'];

const allTests = readdirSync(join(root, 'native/tests'))
  .filter((file) => file.endsWith('_test.cc'))
  .map((file) => file.slice(0, -'.cc'.length));

/** Runs a command with its output passed through; true when it succeeded. */
function run(command, args, env = {}) {
  const { status, error } = spawnSync(command, args, {
    cwd: root,
    // stdout carries results only.
    stdio: ['ignore', 2, 2],
    env: { ...process.env, ...env },
  });
  if (error) console.error(`${command}: ${error.message}`);
  return status === 0;
}

const counts = { passed: 0, failed: 0 };
function report(name, passed) {
  counts[passed ? 'passed' : 'failed'] += 1;
  console.log(`${passed ? 'passed' : 'FAILED'}  ${name}`);
}

for (const sanitizer of sanitizers) {
  const tests = allTests.filter(
    (test) =>
      (sanitizer === 'address' || concurrent.some((word) => test.includes(word))) &&
      (names.length === 0 || names.some((word) => test.includes(word))),
  );
  if (tests.length === 0) continue;
  const tree = join(root, 'build', sanitizer);
  const configured = run('cmake', [
    ...['-S', root, '-B', tree, '-DCMAKE_BUILD_TYPE=Debug'],
    ...['-DNODE_INFINITY_BUILD_TESTS=ON', `-DNODE_INFINITY_SANITIZE=${sanitizer}`],
  ]);
  const parallel = ['--parallel', String(availableParallelism())];
  const built = configured && run('cmake', ['--build', tree, '--target', ...tests, ...parallel]);
  for (const test of tests) {
    const passed = built && run(join(tree, 'tests', test), [], { UBSAN_OPTIONS: 'print_stacktrace=1' });
    report(`${test} (${sanitizer})`, passed);
  }
}
if (counts.passed + counts.failed === 0) report('no native test matches', false);
console.log(JSON.stringify(counts));
process.exitCode = counts.failed > 0 ? 1 : 0;
