// Builds the CUDA kernels for the host, over the emulation of native/tests/simt.h:
// build/emulated/node_infinity_cuda_emulated.so. With NODE_INFINITY_CUDA_LIBRARY naming it, the op tests run on it too.
import { spawnSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { root } from './build-addon.mjs';

const tree = join(root, 'build/emulated');
const run = (...args) => spawnSync('cmake', args, { cwd: root, stdio: ['ignore', 2, 2] }).status === 0;
const built =
  run(
    ...['-S', root, '-B', tree, '-DCMAKE_BUILD_TYPE=Release', '-DNODE_INFINITY_CUDA=OFF'],
    ...['-DNODE_INFINITY_BUILD_TESTS=ON', `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${tree}`],
  ) && run('--build', tree, '--target', 'node_infinity_cuda_emulated', '--parallel', String(availableParallelism()));
if (built) console.log(join(tree, 'node_infinity_cuda_emulated.so'));
process.exitCode = built ? 0 : 1;
