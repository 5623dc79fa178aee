// Packs the package with its prebuilt binary, installs it in an empty folder with scripts disabled, and uses it there as a
// stranger would: import, require, types, command line. Prints one line a check and exits non-zero when one fails.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root } from './build-addon.mjs';

const maxPackageBytes = 15e6;
const folder = mkdtempSync(join(tmpdir(), 'node-infinity-package-'));
const hadPrebuilds = existsSync(join(root, 'prebuilds'));

function run(command, args, cwd) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    ...{ cwd, encoding: 'utf8', maxBuffer: 1 << 28, shell: process.platform === 'win32' },
    // npm passes its configuration to children in the environment; the stranger has none of it.
    env: Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('npm_'))),
  });
  if (status !== 0)
    throw new Error(`${command} ${args.join(' ')} ended with ${status}\n${error ?? ''}${stdout}${stderr}`);
  return stdout;
}
const node = (...args) => run(process.execPath, args, folder);

let failed = 0;
/** Runs one check; later ones still run when it fails. */
function check(name, body) {
  try {
    body();
    console.log(`passed  ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n${error.message}`);
  }
}
const expect = (condition, message) => {
  if (!condition) throw new Error(message);
};

const draw = `const pipe = await InfinityPipeline.fromPretrained();
  const { images } = await pipe.generate('a red circle', { seed: 7 });
  await images[0].toFile(process.argv[2]);
  await pipe.dispose();`;
const typed = `const pipe: InfinityPipeline = await InfinityPipeline.fromPretrained();
const { images } = await pipe.generate('a red circle', { seed: 7 });
const width: number = images[0]!.width;
// @ts-expect-error: a width is a number, so the types are real and not any
const wrong: string = images[0]!.width;
export { training, width, wrong };`;
const consumers = {
  'package.json': '{ "private": true }',
  'import.mjs': `import { InfinityPipeline } from 'node-infinity';\n${draw}\n`,
  'require.cjs': `const { InfinityPipeline } = require('node-infinity');\n(async () => {\n${draw}\n})();\n`,
  'types.mts': `import { InfinityPipeline } from 'node-infinity';\nimport * as training from 'node-infinity/training';\n${typed}\n`,
};

try {
  for (const [name, text] of Object.entries(consumers)) writeFileSync(join(folder, name), text);
  const installed = join(folder, 'node_modules/node-infinity');

  check('prebuildify', () => run(process.execPath, [join(root, 'scripts/prebuildify.mjs')], root));
  check('npm pack', () => {
    const [{ files, size, filename }] = JSON.parse(run('npm', ['pack', '--json', '--pack-destination', folder], root));
    const strays = files
      .map((file) => file.path)
      .filter((path) => /^(test|benchmarks|node_modules|build)\//.test(path));
    expect(strays.length === 0, `These files do not belong into the package: ${strays.slice(0, 5).join(', ')}`);
    expect(size <= maxPackageBytes, `The package has ${size} bytes, more than ${maxPackageBytes}`);
    writeFileSync(join(folder, 'tarball'), filename);
  });
  check('install without scripts', () => {
    const tarball = join(folder, readFileSync(join(folder, 'tarball'), 'utf8'));
    run('npm', ['install', '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund', tarball], folder);
    expect(!existsSync(join(installed, 'build')), 'The install compiled the addon instead of using the prebuilt one');
  });
  check('the install script takes the prebuilt binary', () => {
    node(join(installed, 'scripts/ensure-native.mjs'), '--install');
    expect(!existsSync(join(installed, 'build')), 'It compiled the addon instead of using the prebuilt one');
  });
  check('import draws', () => node('import.mjs', 'import.png'));
  check('require draws the same picture', () => {
    node('require.cjs', 'require.png');
    const [a, b] = ['import.png', 'require.png'].map((name) => readFileSync(join(folder, name)));
    expect(statSync(join(folder, 'import.png')).size > 100 && a.equals(b), 'The pictures of import and require differ');
  });
  check('TypeScript consumes the types', () => {
    const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc');
    const options = ['--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2023'];
    const types = ['--types', 'node', '--typeRoots', join(root, 'node_modules/@types')];
    node(tsc, ...options, '--lib', 'es2023,esnext.disposable', ...types, 'types.mts');
  });
  check('command line', () => node(join(installed, 'dist/cli/main.js'), '--version'));
} finally {
  rmSync(folder, { recursive: true, force: true });
  // prebuildify moved the binary out of build/: the checkout gets it back as it was.
  if (!hadPrebuilds) rmSync(join(root, 'prebuilds'), { recursive: true, force: true });
  run(process.execPath, [join(root, 'scripts/ensure-native.mjs')], root);
}
process.exitCode = failed > 0 ? 1 : 0;
