// Builds native/tests/*_test.cc under sanitizers and runs them, then runs test/ops on an addon and on the CUDA kernels of the
// host emulation (native/tests/simt.h), both built under ASan and UBSan.
// The last line of output is JSON: {"passed":n,"failed":n}.
// `node scripts/test-native.mjs [address|thread] [name...]` runs one sanitizer, or only the tests whose name contains a word;
// `ops` is the name of the second part.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { root } from './build-addon.mjs';

const isSanitizer = (word) => word === 'address' || word === 'thread';
const words = process.argv.slice(2);
const names = words.filter((word) => !isSanitizer(word));
const sanitizers = words.some(isSanitizer) ? words.filter(isSanitizer) : ['address', 'thread'];
const wanted = (test) => names.length === 0 || names.some((word) => test.includes(word));

// Only what runs on several threads has something to say to TSan; kernels are pure functions under ASan and UBSan.
const concurrent = ['queue', 'pool', 'storage', 'device', 'program'];
// On Linux a sanitized addon can be loaded by preloading the runtime; elsewhere the C++ tests have to do.
const canPreload = process.platform === 'linux';

const allTests = readdirSync(join(root, 'native/tests'))
  .filter((file) => file.endsWith('_test.cc'))
  .map((file) => file.slice(0, -'.cc'.length));

/** Runs a command with its output passed through to stderr, stdout being for results; true when it succeeded. */
function run(command, args, env = {}) {
  const { status, error } = spawnSync(command, args, {
    cwd: root,
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

/** The op tests against the addon of this tree: guard zones are closed there, so that an overrun is named where it happens. */
function runOpTests(tree) {
  const compiler = process.env.CXX ?? 'g++';
  const runtime = (name) => spawnSync(compiler, [`-print-file-name=${name}`], { encoding: 'utf8' }).stdout.trim();
  const mocha = createRequire(import.meta.url).resolve('mocha/bin/mocha.js');
  const onCards = [
    ...['test/core/card_memory.test.ts', 'test/core/program.test.ts', 'test/tokenizer/measured.test.ts'],
    ...['test/transformer/bf16.test.ts', 'test/transformer/block_commands.test.ts'],
    ...['test/transformer/recordings.test.ts', 'test/pipeline/card.test.ts'],
  ];
  const together = ['--parallel', '--jobs', String(availableParallelism())];
  return run(process.execPath, [mocha, ...together, '--timeout', '120000', 'test/ops', ...onCards], {
    LD_PRELOAD: `${runtime('libasan.so')} ${runtime('libstdc++.so')}`,
    // Node itself frees little at exit.
    ASAN_OPTIONS: 'detect_leaks=0',
    UBSAN_OPTIONS: 'print_stacktrace=1',
    // node-gyp-build looks here instead of in the checkout.
    NODE_INFINITY_PREBUILD: tree,
    NODE_INFINITY_CUDA_LIBRARY: join(tree, 'build/Release/node_infinity_cuda_emulated.so'),
  });
}

for (const sanitizer of sanitizers) {
  const tests = allTests.filter(
    (test) => wanted(test) && (sanitizer === 'address' || concurrent.some((word) => test.includes(word))),
  );
  const withOps = sanitizer === 'address' && canPreload && wanted('ops');
  const targets = [...tests, ...(withOps ? ['node_infinity', 'node_infinity_cuda_emulated'] : [])];
  if (targets.length === 0) continue;
  const tree = join(root, 'build', sanitizer);
  const configured = run('cmake', [
    ...['-S', root, '-B', tree, '-DCMAKE_BUILD_TYPE=Debug'],
    ...['-DNODE_INFINITY_BUILD_TESTS=ON', `-DNODE_INFINITY_SANITIZE=${sanitizer}`],
    '-DNODE_INFINITY_CUDA=OFF',
    `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${join(tree, 'build/Release')}`,
  ]);
  const parallel = ['--parallel', String(availableParallelism())];
  const built = configured && run('cmake', ['--build', tree, '--target', ...targets, ...parallel]);
  for (const test of tests) {
    const passed = built && run(join(tree, 'tests', test), [], { UBSAN_OPTIONS: 'print_stacktrace=1' });
    report(`${test} (${sanitizer})`, passed);
  }
  if (withOps) report('test/ops (address)', built && runOpTests(tree));
}
if (counts.passed + counts.failed === 0) report('no native test matches', false);
console.log(JSON.stringify(counts));
process.exitCode = counts.failed > 0 ? 1 : 0;
