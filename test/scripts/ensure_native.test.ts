/** The script that `install`, `start` and `test` build the addon with, run in a package of its own. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { packageRoot } from '../../lib/native.js';

const root = packageRoot();
const nodeGypBuild = createRequire(import.meta.url)('node-gyp-build') as { resolve(root: string): string };

describe('ensure-native', () => {
  let folder: string;
  let tools: string;

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'node-infinity-ensure-'));
    tools = join(folder, 'tools');
    mkdirSync(tools);
    cpSync(join(root, 'scripts'), join(folder, 'scripts'), { recursive: true });
    copyFileSync(join(root, 'package.json'), join(folder, 'package.json'));
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'), 'junction');
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  /** Runs the script where only `tools` are installed; each of them is a program that succeeds. */
  function ensure(options: { flags?: string[]; installed?: string[]; env?: Record<string, string> } = {}): {
    status: number | null;
    text: string;
  } {
    for (const tool of options.installed ?? []) symlinkSync('/bin/true', join(tools, tool));
    const script = join(folder, 'scripts/ensure-native.mjs');
    const { status, stderr, stdout } = spawnSync(process.execPath, [script, ...(options.flags ?? [])], {
      env: { PATH: tools, ...options.env },
      encoding: 'utf8',
    });
    assert.equal(stdout, '', 'stdout belongs to the command that runs next');
    return { status, text: stderr };
  }

  const addSources = () => {
    mkdirSync(join(folder, 'native'));
    writeFileSync(join(folder, 'native/addon.cc'), '');
  };
  const addPrebuilt = () => {
    const target = join(folder, 'prebuilds', `${process.platform}-${process.arch}`);
    mkdirSync(target, { recursive: true });
    copyFileSync(nodeGypBuild.resolve(root), join(target, 'node_infinity.node'));
  };

  it('names a missing CMake with its cure', function () {
    if (process.platform === 'win32') this.skip(); // tools are looked up in another way there
    addSources();
    const { status, text } = ensure();
    assert.equal(status, 1);
    assert.match(text, /CMake 3\.18 or newer was not found\. Install it: ".+"/);
  });

  it('names a missing compiler with its cure, and lets an install go on', function () {
    if (process.platform === 'win32') this.skip(); // tools are looked up in another way there
    addSources();
    const { status, text } = ensure({ flags: ['--install'], installed: ['cmake'] });
    assert.equal(status, 0);
    assert.match(text, /No C\+\+20 compiler was found\. Install one: ".+"/);
    assert.match(text, /the install goes on/);
  });

  it('takes a prebuilt binary of a package without sources, and says nothing', () => {
    addPrebuilt();
    assert.deepEqual(ensure(), { status: 0, text: '' });
  });

  /** The stamp of these sources beside the prebuilt binary. */
  const stampPrebuilt = () => {
    const script = pathToFileURL(join(folder, 'scripts/ensure-native.mjs')).href;
    const code = `import { nativeHash } from '${script}'; process.stdout.write(nativeHash());`;
    const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' });
    writeFileSync(join(folder, 'prebuilds', `${process.platform}-${process.arch}`, 'node_infinity.hash'), stdout);
  };

  it('takes a prebuilt binary of the same sources, with and without their C++ tests', () => {
    addPrebuilt();
    addSources();
    stampPrebuilt();
    assert.deepEqual(ensure(), { status: 0, text: '' });
    mkdirSync(join(folder, 'native/tests'));
    writeFileSync(join(folder, 'native/tests/some_test.cc'), '');
    assert.deepEqual(ensure(), { status: 0, text: '' });
  });

  it('builds again where NODE_INFINITY_CUDA=ON asks for a backend that is not there', function () {
    if (process.platform === 'win32') this.skip(); // tools are looked up in another way there
    addPrebuilt();
    addSources();
    stampPrebuilt();
    const { status, text } = ensure({ env: { NODE_INFINITY_CUDA: 'ON' } });
    assert.equal(status, 1);
    assert.match(text, /CMake/);
    writeFileSync(join(folder, 'prebuilds', `${process.platform}-${process.arch}`, 'node_infinity_cuda.so'), '');
    assert.deepEqual(ensure({ env: { NODE_INFINITY_CUDA: 'ON' } }), { status: 0, text: '' });
  });

  it('does not take a prebuilt binary of other sources', function () {
    if (process.platform === 'win32') this.skip(); // tools are looked up in another way there
    addPrebuilt();
    addSources();
    const { status, text } = ensure();
    assert.equal(status, 1);
    assert.match(text, /CMake/);
  });

  it('does not take a prebuilt binary that does not load', () => {
    const target = join(folder, 'prebuilds', `${process.platform}-${process.arch}`);
    mkdirSync(target, { recursive: true });
    writeFileSync(join(target, 'node_infinity.node'), 'not a library');
    const { status, text } = ensure();
    assert.equal(status, 1);
    assert.match(text, /no binary for this platform and no native sources/);
  });
});
