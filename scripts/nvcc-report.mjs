// Compiles every native/ops/*/cuda.cu for sm_80 and sm_90a and holds what ptxas reports of each kernel against
// native/cuda/registers.txt: exits 1 on a spill, on more registers than the table allows, where the table lacks a kernel
// or names one that is gone, and where ptxas puts products of warpgroups one after another. `--update` rewrites the table; words name the families to look at.
// Says so and succeeds where nvcc or c++filt is missing.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { root } from './build-addon.mjs';

const architectures = ['sm_80', 'sm_90a'];
const table = join(root, 'native/cuda/registers.txt');

/** What ptxas -v says of each kernel: its mangled name, architecture, registers, bytes spilled and of static shared memory. */
export function parsePtxas(text) {
  const kernels = [];
  let kernel;
  for (const line of text.split('\n')) {
    const entry = /Compiling entry function '(\S+)' for '(\w+)'/.exec(line);
    if (entry) {
      kernel = { symbol: entry[1], architecture: entry[2], registers: 0, spilled: 0, shared: 0 };
      kernels.push(kernel);
      continue;
    }
    // A device function that was not inlined belongs to the kernel that calls it: its spills count, it has no registers.
    const spills = /(\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
    if (spills && kernel) kernel.spilled += Math.max(Number(spills[1]), Number(spills[2]));
    const used = /Used (\d+) registers/.exec(line);
    if (used && kernel) {
      kernel.registers = Number(used[1]);
      kernel.shared = Number(/(\d+) bytes smem/.exec(line)?.[1] ?? 0);
    }
  }
  return kernels;
}

/** What ptxas found wrong with the asynchronous instructions of 9.0: products that it serialises, registers that stay where they are. */
export function asynchronousLosses(text) {
  return [...text.matchAll(/^.*\((?:C75\d\d)\).*$/gm)].map(([line]) => line.trim());
}

/** A demangled kernel without what says nothing: result, parameters, namespaces, spaces that some demanglers put. */
export function kernelName(demangled) {
  const bare = demangled.replaceAll('(anonymous namespace)::', '').replaceAll(/infinity::(cuda::)?/g, '');
  const name = bare.replaceAll(/ >/g, '>').replace(/^void /, '');
  let depth = 0;
  for (const [i, c] of [...name].entries()) {
    if (c === '<') depth++;
    else if (c === '>') depth--;
    else if (c === '(' && depth === 0) return name.slice(0, i);
  }
  return name;
}

/** Lines of the table, sorted: a kernel's family and name, its architecture, and three numbers. */
export function tableLines(kernels) {
  const lines = kernels.map((k) => `${k.name} ${k.architecture} ${k.registers} ${k.spilled} ${k.shared}`);
  return [...new Set(lines)].sort();
}

/** What `lines` do that the table's `allowed` lines do not allow, one message each. */
export function complaints(lines, allowed) {
  const read = (all) => new Map(all.map((l) => [/^(.*) \d+ \d+ \d+$/.exec(l)[1], l.split(' ').slice(-3).map(Number)]));
  const [now, before] = [read(lines), read(allowed)];
  const found = [];
  for (const [name, [registers, spilled]] of now) {
    const limit = before.get(name)?.[0];
    if (spilled > 0) found.push(`${name} spills ${spilled} bytes`);
    if (limit === undefined) found.push(`${name} is not in the table`);
    else if (registers > limit) found.push(`${name} uses ${registers} registers, the table allows ${limit}`);
  }
  for (const name of before.keys())
    if (!now.has(name)) found.push(`${name} is in the table, but there is no such kernel`);
  return found;
}

function findNvcc() {
  const home = process.env.CUDA_HOME ?? process.env.CUDA_PATH ?? '/usr/local/cuda';
  const names = ['nvcc', join(home, 'bin/nvcc')];
  return names.find((name) => spawnSync(name, ['--version']).status === 0);
}

/** What ptxas says while one family is compiled. */
function compile(nvcc, family, folder) {
  const args = [
    ...['-std=c++17', '-O3', '-I', join(root, 'native'), '-Xcompiler', '-fPIC', '-Xptxas', '-v'],
    ...architectures.map((sm) => `-gencode=arch=${sm.replace('sm', 'compute')},code=${sm}`),
    ...['-c', join(root, 'native/ops', family, 'cuda.cu'), '-o', join(folder, `${family}.o`)],
  ];
  return new Promise((resolve) => {
    const child = spawn(nvcc, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    let text = '';
    child.stderr.setEncoding('utf8').on('data', (piece) => {
      text += piece;
    });
    child.on('close', (status) => resolve({ family, text, built: status === 0 }));
  });
}

async function main(words) {
  const nvcc = findNvcc();
  if (!nvcc || spawnSync('c++filt', ['--version']).status !== 0) {
    console.log(`${nvcc ? 'c++filt' : 'nvcc'} was not found: the registers of CUDA kernels are left unchecked`);
    return 0;
  }
  const wanted = words.filter((word) => !word.startsWith('--'));
  const families = readdirSync(join(root, 'native/ops')).filter(
    (family) =>
      existsSync(join(root, 'native/ops', family, 'cuda.cu')) && (wanted.length === 0 || wanted.includes(family)),
  );
  const folder = mkdtempSync(join(tmpdir(), 'node-infinity-nvcc-'));
  const kernels = [];
  const losses = [];
  const queue = [...families];
  let failed = false;
  const worker = async () => {
    for (let family = queue.shift(); family; family = queue.shift()) {
      const { text, built } = await compile(nvcc, family, folder);
      if (!built) {
        console.error(`${family} does not compile:\n${text.replaceAll(/^ptxas info.*\n/gm, '')}`);
        failed = true;
      }
      losses.push(...asynchronousLosses(text).map((line) => `${family}: ${line}`));
      kernels.push(...parsePtxas(text).map((kernel) => ({ ...kernel, family })));
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  rmSync(folder, { recursive: true });
  if (failed) return 1;

  const symbols = kernels.map((k) => k.symbol).join('\n');
  const demangled = spawnSync('c++filt', { input: symbols, encoding: 'utf8', maxBuffer: 1 << 28 }).stdout.split('\n');
  const lines = tableLines(kernels.map((k, i) => ({ ...k, name: `${k.family} ${kernelName(demangled[i])}` })));
  const release = /release ([\d.]+)/.exec(spawnSync(nvcc, ['--version'], { encoding: 'utf8' }).stdout)?.[1];
  const [heading = '', ...rest] = existsSync(table) ? readFileSync(table, 'utf8').trimEnd().split('\n') : [];
  const ofFamilies = (line) => families.includes(line.split(' ')[0]);
  const covered = rest.filter((line) => wanted.length === 0 || ofFamilies(line));
  const written = /nvcc ([\d.]+)/.exec(heading)?.[1];
  let found = complaints(lines, covered);
  if (words.includes('--update')) {
    const kept = rest.filter((line) => !covered.includes(line));
    const first = `# nvcc ${release}: family, kernel, architecture, registers, bytes spilled, bytes of static shared memory`;
    writeFileSync(table, `${[first, ...[...kept, ...lines].sort()].join('\n')}\n`);
    found = found.filter((what) => what.includes('spills'));
  } else if (written !== release) {
    console.log(`The table is of nvcc ${written}, this is ${release}: only spills are judged`);
    found = found.filter((what) => what.includes('spills'));
  }
  found.push(...losses);
  for (const what of found) console.error(what);
  console.log(`${lines.length} kernels of ${families.length} families, ${found.length} complaints`);
  return found.length > 0 ? 1 : 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = await main(process.argv.slice(2));
