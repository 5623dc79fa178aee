import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { drawBatch } from '../../lib/data/batch.js';
import { openDataset } from '../../lib/data/dataset.js';
import { openTraining, type Training, type TransformerTrainer } from '../../lib/training/index.js';
import type { CacheCounts, StepNumbers } from '../../lib/training/trainee.js';
import { call } from '../support/command_line.js';
import { tokenizerConfig, transformerConfig, using } from '../support/tiny_training.js';

/** Three steps of two pictures go through all five and one again. */
const short = { ...transformerConfig, iterations: 3, save_every: 3 };

describe('cached features of pictures', () => {
  let root: string;
  let pictures: string;
  let tokenizer: string;
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-features-'));
    pictures = join(root, 'pictures');
    await mkdir(pictures);
    const noise = (i: number) => ({ type: 'gaussian' as const, mean: 90 + 20 * i, sigma: 40 });
    for (let i = 0; i < 5; i++) {
      const create = { width: 20 + i, height: 18, channels: 3 as const, background: 'grey', noise: noise(i) };
      await sharp({ create }).toFile(join(pictures, `${i}.png`));
      await writeFile(join(pictures, `${i}.txt`), `picture number ${i}`);
    }
    tokenizer = join(root, 'tokenizer');
    const config = { ...tokenizerConfig, dataset };
    await using(await openTraining('tokenizer', { config: { ...config, dataset: dataset() } }), (t) =>
      t.export(tokenizer),
    );
  });
  afterEach(() => rm(root, { recursive: true, force: true }));

  const dataset = () => ({ kind: 'folder', path: pictures, seed: 5, size: 16 });
  const open = (change: object = {}, vae = tokenizer): Promise<Training> =>
    openTraining('transformer', { config: { ...short, dataset: dataset(), ...change }, tokenizer: vae });
  /** Three steps without a run around them, which has a thread of its own for the data. */
  const run = async (change: object = {}, vae = tokenizer): Promise<{ steps: StepNumbers[]; cache: CacheCounts }> =>
    using((await open(change, vae)) as TransformerTrainer, async (trainer) => {
      const data = openDataset(trainer.source);
      const steps: StepNumbers[] = [];
      for (let step = 0; step < 3; step++) {
        const batch = await drawBatch(data, { first: 2 * step, count: 2 });
        steps.push(await trainer.step(batch, step, { lr: 0.003, weightDecay: 0.01 }));
      }
      return { steps, cache: { read: 0, computed: 0, damaged: 0, ...trainer.cache?.pictures } };
    });
  const entries = async (cache: string): Promise<string[]> =>
    (await readdir(cache, { recursive: true, withFileTypes: true }))
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      // Digests of the files lie there as well.
      .filter((path) => statSync(path).size === 32 + 4 * 4 * 4 * 4);

  it('change no bit of a training: while they are computed, when they are there, in every mixture', async () => {
    const cache = join(root, 'cache');
    const { steps } = await run();
    // The sixth sample is the first of the second epoch.
    assert.deepEqual(await run({ cache }), { steps, cache: { read: 1, computed: 5, damaged: 0 } });
    assert.deepEqual(await run({ cache }), { steps, cache: { read: 6, computed: 0, damaged: 0 } });
    // Some are damaged, some are missing.
    const [first, second] = await entries(cache);
    const bytes = await readFile(first!);
    bytes[bytes.length - 1]! ^= 1;
    await writeFile(first!, bytes);
    await unlink(second!);
    const mixed = await run({ cache });
    assert.deepEqual(mixed.steps, steps);
    assert.deepEqual([mixed.cache.computed, mixed.cache.damaged], [2, 1]);
    assert.deepEqual((await run({ cache, accumulate: 2 })).steps, (await run({ accumulate: 2 })).steps);
  });

  it('spare the decoding and the encoder', async () => {
    const cache = join(root, 'cache');
    await run({ cache });
    await using(await open({ cache }), async ({ source }) => {
      const data = openDataset(source);
      for (let i = 0; i < 5; i++) {
        const { pixels, features } = await data.sample(i, { first: i, count: 1 });
        assert.equal(pixels, undefined);
        assert.equal(features!.bytes!.length, 4 * 4 * 4 * 4);
      }
    });
  });

  it('belong to the content of a picture, its size and the weights of the tokenizer', async () => {
    const cache = join(root, 'cache');
    await run({ cache });
    // The same pictures by other names: what counts is what they hold.
    const one = join(pictures, '1.png');
    await writeFile(join(pictures, '9.png'), await readFile(one));
    await writeFile(join(pictures, '9.txt'), 'the same again');
    assert.equal((await run({ cache })).cache.computed, 0);
    // New content under an old name is new.
    const before = await readFile(one);
    await writeFile(one, await sharp(before).negate().png().toBuffer());
    assert.equal((await run({ cache })).cache.computed, 1);
    const other = join(root, 'other');
    const config = { ...tokenizerConfig, seed: 77, dataset: dataset() };
    await using(await openTraining('tokenizer', { config }), (t) => t.export(other));
    const elsewhere = await run({ cache }, other);
    assert.ok(elsewhere.cache.computed === 6);
    assert.deepEqual(elsewhere.steps, (await run({}, other)).steps);
  });

  it('serve several runs at once', async () => {
    const cache = join(root, 'cache');
    const { steps } = await run();
    for (const both of await Promise.all([run({ cache }), run({ cache })])) assert.deepEqual(both.steps, steps);
    assert.equal((await run({ cache })).cache.computed, 0);
  });

  it('stop to be kept where they cannot be written, and the training goes on', async () => {
    const cache = join(root, 'a file');
    await writeFile(cache, 'not a folder');
    const without = await run();
    const { steps, cache: counts } = await run({ cache });
    assert.deepEqual(steps, without.steps);
    assert.match(counts.failure!, /a file/);
  });

  it('are named on the command line, which tells of damaged ones', async () => {
    const [cache, config] = [join(root, 'cache'), join(root, 'config.json')];
    await writeFile(config, JSON.stringify({ ...short, dataset: dataset(), cache_limit: 0.1 }));
    const train = (out: string) =>
      call(['train', 'transformer', '-c', config, '-o', join(root, out), '--tokenizer', tokenizer, '--cache', cache]);
    const first = await train('first');
    assert.equal(first.code, 0, first.stderr);
    for (const entry of await entries(cache)) {
      const bytes = await readFile(entry);
      bytes[40]! ^= 1;
      await writeFile(entry, bytes);
    }
    const second = await train('second');
    assert.equal(second.code, 0, second.stderr);
    assert.match(second.stderr, /damaged entries of the cache so far: [1-5]; computed again/);
  });
});
