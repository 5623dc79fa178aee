import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { drawBatch } from '../../lib/data/batch.js';
import { openDataset } from '../../lib/data/dataset.js';
import { Checkpoint, writeCheckpoint } from '../../lib/io/checkpoint.js';
import { openTraining, type TransformerTrainer } from '../../lib/training/index.js';
import type { CacheReport, StepNumbers } from '../../lib/training/trainee.js';
import { runSome, tokenizerConfig, transformerConfig, using } from '../support/tiny_training.js';

/** The bytes of a row of features. */
const ROW = 4 * transformerConfig.text_encoder.d_model;

describe('cached features of captions', () => {
  let root: string;
  let tokenizer: string;
  let start: string;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-captions-'));
    [tokenizer, start] = [join(root, 'tokenizer'), join(root, 'start')];
    await using(await openTraining('tokenizer', { config: tokenizerConfig }), (t) => t.export(tokenizer));
    await using(await openTraining('transformer', { config: transformerConfig, tokenizer }), (t) => t.export(start));
  });
  after(() => rm(root, { recursive: true, force: true }));

  const frozen = { ...transformerConfig, text_encoder: 'frozen', iterations: 4, save_every: 1 };
  const folder = () => mkdtemp(join(root, 'cache-'));
  const open = async (change: object = {}, init = start): Promise<TransformerTrainer> =>
    (await openTraining('transformer', { config: { ...frozen, ...change }, tokenizer, init })) as TransformerTrainer;
  /** Three steps of two captions, of which each is drawn as often as the dataset pleases. */
  const run = async (change: object = {}, init = start): Promise<{ steps: StepNumbers[]; cache?: CacheReport }> =>
    using(await open(change, init), async (trainer) => {
      const { textFeatures, ...rest } = trainer.source;
      const data = openDataset(textFeatures ? { ...rest, textFeatures } : rest);
      const steps: StepNumbers[] = [];
      for (let step = 0; step < 3; step++) {
        const batch = await drawBatch(data, { first: 2 * step, count: 2 });
        steps.push(await trainer.step(batch, step, { lr: 0.003, weightDecay: 0.01 }));
      }
      return { steps, ...(trainer.cache && { cache: trainer.cache }) };
    });
  const entries = async (cache: string): Promise<string[]> =>
    (await readdir(cache, { recursive: true, withFileTypes: true }))
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name));
  const damage = async (path: string): Promise<void> => {
    const bytes = await readFile(path);
    bytes[bytes.length - 1]! ^= 1;
    await writeFile(path, bytes);
  };
  /** The start with something else in it. */
  const changed = async (change: (parts: Awaited<ReturnType<typeof partsOf>>) => object): Promise<string> => {
    const directory = join(await folder(), 'start');
    await writeCheckpoint(directory, { ...(await partsOf()), ...change(await partsOf()) });
    return directory;
  };
  const partsOf = async () => {
    const checkpoint = await Checkpoint.open(start);
    const [vae, transformer, text_encoder] = await Promise.all(
      (['vae', 'transformer', 'text_encoder'] as const).map((name) => checkpoint.component(name)),
    );
    const json = JSON.parse(await readFile(checkpoint.tokenizerPath, 'utf8')) as {
      model: { vocab: [string, number][] };
    };
    return { components: { vae: vae!, transformer: transformer!, text_encoder: text_encoder! }, tokenizer: json };
  };

  it('change no bit of a training: while they are computed, when they are there, in every mixture', async () => {
    const cache = await folder();
    const { steps } = await run();
    assert.deepEqual(await run({ cache }), { steps, cache: { captions: { read: 0, computed: 6, damaged: 0 } } });
    const kept = await entries(cache);
    assert.ok(kept.length > 3 && kept.every((path) => (statSync(path).size - 32) % ROW === 0));
    assert.deepEqual(await run({ cache }), { steps, cache: { captions: { read: 6, computed: 0, damaged: 0 } } });
    // Some are damaged, some are missing.
    await damage(kept[0]!);
    await rm(kept[1]!);
    const mixed = await run({ cache });
    assert.deepEqual(mixed.steps, steps);
    assert.deepEqual(mixed.cache, { captions: { read: 4, computed: 2, damaged: 1 } });
    assert.deepEqual((await run({ cache, accumulate: 2 })).steps, (await run({ accumulate: 2 })).steps);
  });

  it('belong to the text encoder, the text tokenizer and the length that captions are cut to', async () => {
    const cache = await folder();
    await run({ cache });
    const encoder = await changed(({ components }) => {
      const { config, tensors } = components.text_encoder;
      const [name, { dtype, shape, data }] = [...tensors].find(([of]) => of.includes('final_layer_norm'))!;
      const other = Uint8Array.from(data);
      other[1]! ^= 1;
      const text_encoder = { config, tensors: new Map([...tensors, [name, { dtype, shape, data: other }]]) };
      return { components: { ...components, text_encoder } };
    });
    const words = await changed(({ tokenizer: json }) => {
      json.model.vocab.at(-1)![1] -= 0.5;
      return { tokenizer: json };
    });
    // The same text encoder, from the same seed.
    const short = join(root, 'short');
    const transformer = { ...transformerConfig.transformer, text_maxlen: 4 };
    const config = { ...transformerConfig, transformer };
    await using(await openTraining('transformer', { config, tokenizer }), (t) => t.export(short));
    for (const [change, init] of [
      [{}, encoder],
      [{}, words],
      [{ transformer }, short],
    ] as const) {
      const { steps } = await run(change, init);
      const cached = await run({ ...change, cache }, init);
      assert.deepEqual(cached, { steps, cache: { captions: { read: 0, computed: 6, damaged: 0 } } });
      assert.equal((await run({ ...change, cache }, init)).cache!.captions!.read, 6);
    }
  });

  it('are not kept of a text encoder that is trained', async () => {
    const cache = await folder();
    const trained = await run({ cache, text_encoder: transformerConfig.text_encoder });
    assert.equal(trained.cache, undefined);
    assert.deepEqual(await entries(cache), []);
  });

  it('serve a run that is resumed', async () => {
    const cache = await folder();
    const losses = async (change: object, directory: string, stop?: number) =>
      using(await open(change), async (t) => {
        const events = await runSome(t, join(root, directory), stop);
        return { losses: events.map(({ loss }) => loss), cache: events.at(-1)!.cache };
      });
    const whole = await losses({}, 'whole');
    assert.equal(whole.cache, undefined);
    assert.deepEqual((await losses({ cache }, 'kept')).losses, whole.losses);
    for (const path of (await entries(cache)).slice(0, 2)) await damage(path);
    const [first, rest] = [await losses({ cache }, 'cut', 2), await losses({ cache }, 'cut')];
    assert.deepEqual([...first.losses, ...rest.losses], whole.losses);
    const [before, after] = [first.cache!.captions!, rest.cache!.captions!];
    assert.deepEqual([before.damaged + after.damaged, before.computed + after.computed], [2, 2]);
  });
});
