import assert from 'node:assert/strict';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { InfinityError } from '../../lib/errors.js';
import { openTraining } from '../../lib/training/index.js';
import type { Resumed } from '../../lib/training/run.js';
import { loadRunState, type RunState, saveRunState } from '../../lib/training/run_state.js';
import { call } from '../support/command_line.js';
import { runSome, tokenizerConfig, using } from '../support/tiny_training.js';

describe('saved states', () => {
  let root: string;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-states-'));
  });
  after(() => rm(root, { recursive: true, force: true }));

  const state = (step: number): RunState => ({
    step,
    config: { seed: 3, lr: 0.1 },
    tensors: new Map([
      ['weight.a', { shape: [2, 2], data: Float32Array.of(1, -2, 0.5, step) }],
      ['m.a', { shape: [2], data: Float32Array.of(0, step) }],
    ]),
  });
  const flip = async (path: string, at: number, mask: number): Promise<void> => {
    const bytes = await readFile(path);
    bytes[at]! ^= mask;
    await writeFile(path, bytes);
  };

  it('a byte that changed anywhere in the newest is found: the one before is taken, and that is told', async () => {
    const directory = join(root, 'bytes');
    await mkdir(directory);
    const before = await saveRunState(directory, state(1));
    const newest = await saveRunState(directory, state(2));
    const whole = join(root, 'whole');
    await copyFile(newest, whole);
    const { length } = await readFile(whole);
    for (let at = 0; at < length; at++) {
      for (const mask of [1, 0x80]) {
        await copyFile(whole, newest);
        await flip(newest, at, mask);
        const found = await loadRunState(directory);
        assert.deepEqual(found!.state, state(1), `byte ${at}`);
        assert.equal(found!.path, before);
        assert.deepEqual(
          found!.damaged.map(({ path }) => path),
          [newest],
        );
      }
    }
    await copyFile(whole, newest);
    assert.deepEqual(await loadRunState(directory), { state: state(2), path: newest, damaged: [] });
  });

  it('fails when none is what was saved', async () => {
    const directory = join(root, 'none');
    await mkdir(directory);
    for (const step of [1, 2]) await flip(await saveRunState(directory, state(step)), 7, 0xff);
    await assert.rejects(loadRunState(directory), (e) => e instanceof InfinityError && e.code === 'CHECKPOINT_INVALID');
  });

  it('damaged states of later steps go when a new one is saved, never the new one', async () => {
    const directory = join(root, 'later');
    await mkdir(directory);
    for (const step of [4, 6, 8]) await saveRunState(directory, state(step));
    await saveRunState(directory, state(5));
    assert.deepEqual(await readdir(directory), ['state-00000005.safetensors']);
  });

  it('a run goes on from the state before a damaged one, bit for bit, and the command says so', async () => {
    const [whole, broken] = [join(root, 'run-whole'), join(root, 'run-broken')];
    const open = () => openTraining('tokenizer', { config: tokenizerConfig });
    const unbroken = await using(await open(), (t) => runSome(t, whole));
    await using(await open(), (t) => runSome(t, broken, 4));
    const newest = join(broken, 'state-00000004.safetensors');
    await flip(newest, (await readFile(newest)).length - 5, 1);
    const told: Resumed[] = [];
    const losses: number[] = [];
    await using(await open(), async (t) => {
      for await (const { loss } of t.run({ directory: broken, onResume: (from) => told.push(from) })) losses.push(loss);
    });
    assert.deepEqual(
      losses,
      unbroken.slice(2).map(({ loss }) => loss),
    );
    assert.deepEqual([told.length, told[0]!.step, told[0]!.damaged[0]!.path], [1, 2, newest]);

    await flip(join(broken, 'state-00000006.safetensors'), 400, 1);
    const config = join(root, 'config.json');
    await writeFile(config, JSON.stringify(tokenizerConfig));
    const { code, stderr } = await call(['train', 'tokenizer', '-c', config, '-o', broken]);
    assert.equal(code, 0, stderr);
    assert.match(stderr, /state-00000006\.safetensors.*\n.*going on from the state of step 4/);
  });

  it('what a killed writer left is removed when the run goes on', async () => {
    const directory = join(root, 'leftovers');
    const open = () => openTraining('tokenizer', { config: tokenizerConfig });
    await using(await open(), (t) => runSome(t, directory, 2));
    await writeFile(join(directory, '.state-00000004.safetensors.0123456789ab.tmp'), 'half');
    await mkdir(join(directory, '.checkpoint.0123456789ab.tmp'));
    await writeFile(join(directory, '.notes.tmp'), 'not ours');
    await using(await open(), (t) => runSome(t, directory, 3));
    assert.deepEqual((await readdir(directory)).sort(), ['.notes.tmp', 'log.jsonl', 'state-00000002.safetensors']);
  });
});
