// Makes sure that a loadable node_infinity.node of the current sources is there: ends at once when it is, else builds it.
// Under `install` (--install) a build that cannot be done is reported and the exit code is 0: npm install never fails for it,
// and `npm start` and `npm test`, which also work where npm blocks install scripts, call this again.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildAddon, root } from './build-addon.mjs';
import { sourceHash } from './source-hash.mjs';

const require = createRequire(import.meta.url);
const built = join(root, 'build/Release/node_infinity.node');

/**
 * What the addon is built from: a stamp of it lies beside every binary. The C++ tests and the table of registers are not part of
 * it, nor of the package, whose prebuilt binary would be taken for one of other sources.
 */
export function nativeHash() {
  const salt = `${process.platform}-${process.arch}`;
  return sourceHash(root, ['CMakeLists.txt', 'native'], {
    salt,
    leaveOut: ['native/tests', 'native/cuda/registers.txt'],
  });
}

export const stampOf = (binary) => join(dirname(binary), 'node_infinity.hash');

const isCurrent = (binary, hash) => existsSync(stampOf(binary)) && readFileSync(stampOf(binary), 'utf8') === hash;

/** Loads the binary in a process of its own, so that a binary of another machine cannot take this one down. */
function loads(binary) {
  const probe = spawnSync(process.execPath, ['-e', 'require(process.argv[1])', binary], { stdio: 'ignore' });
  return probe.status === 0;
}

/** The binary that node-gyp-build would load, when it is usable. */
function usableBinary(hash) {
  let binary;
  try {
    binary = require('node-gyp-build').resolve(root);
  } catch {
    return undefined;
  }
  const noSources = !existsSync(join(root, 'native'));
  // An addon that was built without the CUDA backend is not what ON asks for.
  const lacksCuda =
    process.env.NODE_INFINITY_CUDA === 'ON' && !existsSync(join(dirname(binary), 'node_infinity_cuda.so'));
  return (noSources || (isCurrent(binary, hash) && !lacksCuda)) && loads(binary) ? binary : undefined;
}

const cures = {
  compiler: {
    linux:
      'Install one: "apt-get install g++" (Debian, Ubuntu), "dnf install gcc-c++" (Fedora), "apk add g++" (Alpine).',
    darwin: 'Install one: "xcode-select --install".',
    win32: 'Install one: the "Desktop development with C++" workload of the Visual Studio Build Tools, with clang.',
  },
  cmake: {
    linux:
      'Install it: "apt-get install cmake make" (Debian, Ubuntu), "dnf install cmake make" (Fedora), "apk add cmake make" (Alpine).',
    darwin: 'Install it: "brew install cmake".',
    win32: 'Install it: "winget install Kitware.CMake".',
  },
};

const runs = (command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;

/** Names what the build needs and the machine lacks, with its cure; undefined when nothing is missing. */
function missingTool() {
  const cure = (tool) => cures[tool][process.platform] ?? cures[tool].linux;
  if (!existsSync(join(root, 'native'))) return 'This package has no binary for this platform and no native sources.';
  try {
    require.resolve('cmake-js/package.json');
  } catch {
    return 'cmake-js is not installed. Run "npm install" first.';
  }
  if (!runs('cmake')) return `CMake 3.18 or newer was not found. ${cure('cmake')}`;
  const compilers = [process.env.CXX, 'c++', 'g++', 'clang++'].filter(Boolean);
  if (process.platform !== 'win32' && !compilers.some(runs)) return `No C++20 compiler was found. ${cure('compiler')}`;
  return undefined;
}

/** Builds, checks and stamps the addon. Returns what went wrong, or undefined. */
function build(hash) {
  const missing = missingTool();
  if (missing) return missing;
  const started = Date.now();
  process.stderr.write(`node-infinity: building the native addon on ${availableParallelism()} cores, once ... `);
  rmSync(stampOf(built), { force: true });
  const { status, stdout, stderr } = buildAddon('Release', 'pipe');
  if (status !== 0) return `The native build failed:\n${stdout}${stderr}`;
  if (!loads(built))
    return `The build ended well, but ${built} does not load: node -e "require('${built}')" shows why.`;
  writeFileSync(stampOf(built), hash);
  process.stderr.write(`done in ${((Date.now() - started) / 1000).toFixed(1)} s\n`);
  return undefined;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const installing = process.argv.includes('--install');
  const hash = nativeHash();
  const problem = usableBinary(hash) ? undefined : build(hash);
  if (problem) {
    process.stderr.write(`\nnode-infinity: ${problem}\n`);
    if (installing)
      process.stderr.write(
        'node-infinity: the install goes on; "npm rebuild node-infinity" (in a checkout "npm run build") builds it later.\n',
      );
    process.exitCode = installing ? 0 : 1;
  }
}
