import assert from 'node:assert/strict';
import { cp, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { InfinityError } from '../../lib/errors.js';
import { Checkpoint } from '../../lib/io/checkpoint.js';
import { InfinityPipeline } from '../../lib/pipeline/index.js';
import { TextTokenizer } from '../../lib/text/tokenizer.js';
import { openTraining, type StepEvent, type Training, type TrainingKind } from '../../lib/training/index.js';
import { call } from '../support/command_line.js';
import { runSome, tokenizerConfig, transformerConfig, using } from '../support/tiny_training.js';

const colors = ['red', 'green', 'blue', 'yellow', 'grey'];

describe("training on pictures of one's own", () => {
  let root: string;
  let pictures: string;
  let tokenizer: string;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-own-'));
    pictures = join(root, 'pictures');
    await mkdir(pictures);
    for (const [i, background] of colors.entries()) {
      const picture = sharp({ create: { width: 30 + i, height: 40, channels: 3, background } });
      await picture.toFile(join(pictures, `${i}.png`));
      await writeFile(join(pictures, `${i}.txt`), `A ${background} wall, painted in Málaga`);
    }
    tokenizer = join(root, 'tokenizer-checkpoint');
    await using(await open('tokenizer'), (t) => t.export(tokenizer));
  });
  after(() => rm(root, { recursive: true, force: true }));

  /** A schedule that is not square, as the pictures are. */
  const dataset = (path = pictures) => ({ kind: 'folder', path, seed: 5, size: [32, 16] });
  const open = (kind: TrainingKind, change: object = {}, init?: string): Promise<Training> =>
    openTraining(kind, {
      config: {
        ...(kind === 'tokenizer' ? { ...tokenizerConfig, schedule: '1 2 4x2 8x4' } : transformerConfig),
        dataset: dataset(),
        ...change,
      },
      ...(kind === 'transformer' ? { tokenizer } : {}),
      ...(init === undefined ? {} : { init }),
    });
  const mismatch = (field: string, cure: RegExp) => (e: unknown) => {
    assert.ok(
      e instanceof InfinityError && e.code === 'CHECKPOINT_CONFIG_MISMATCH' && e.fields.field === field,
      String(e),
    );
    assert.match(e.cure!, cure);
    return true;
  };

  for (const kind of ['tokenizer', 'transformer'] as const) {
    it(`${kind}: goes on bit for bit after a stop, from wherever the folder lies then`, async () => {
      const [whole, broken, moved] = [join(root, `${kind}-whole`), join(root, `${kind}-broken`), join(root, 'moved')];
      const unbroken = await using(await open(kind), (t) => runSome(t, whole));
      await using(await open(kind), (t) => runSome(t, broken, 3));
      await rename(pictures, moved);
      try {
        const rest = await using(await open(kind, { dataset: dataset(moved) }), (t) => runSome(t, broken));
        assert.deepEqual(
          rest.map(({ step, loss }) => [step, loss]),
          unbroken.slice(2).map(({ step, loss }) => [step, loss]),
        );
      } finally {
        await rename(moved, pictures);
      }
    });
  }

  it('refuses to go on with other pictures or captions, and says what to do', async () => {
    const run = join(root, 'changed');
    await using(await open('transformer'), (t) => runSome(t, run, 2));
    const caption = await readFile(join(pictures, '2.txt'), 'utf8');
    await writeFile(join(pictures, '2.txt'), 'something else');
    try {
      await using(await open('transformer'), (t) =>
        assert.rejects(runSome(t, run), mismatch('dataset_digest', /--init/)),
      );
    } finally {
      await writeFile(join(pictures, '2.txt'), caption);
    }
    const [next] = await using(await open('transformer'), (t) => runSome(t, run, 3));
    assert.equal(next!.step, 3);
  });

  it('makes the vocabulary from the captions, keeps that of --init, and draws with what it exported', async () => {
    const [first, second] = [join(root, 'first'), join(root, 'second')];
    await using(await open('transformer', { vocabulary_limit: 3 }), (t) => t.export(first));
    const own = await TextTokenizer.fromFile((await Checkpoint.open(first)).tokenizerPath);
    // "a", "in" and "málaga" come five times as often as a colour, and before "painted" and "wall".
    const words = own.encode('a málaga wall').ids.map((id) => own.pieceOf(id));
    assert.deepEqual(words, ['▁a', '▁málaga', '▁', 'w', 'a', 'l', 'l', '</s>']);

    const pipeline = await InfinityPipeline.fromPretrained(first);
    try {
      const { images } = await pipeline.generate('A red wall', { seed: 1 });
      assert.deepEqual([images[0]!.height, images[0]!.width], [32, 16]);
    } finally {
      await pipeline.dispose();
    }

    await using(await open('transformer', {}, first), (t) => t.export(second));
    const kept = await TextTokenizer.fromFile((await Checkpoint.open(second)).tokenizerPath);
    assert.deepEqual(kept.json, own.json);
  });

  it('refuses a run that began with the text tokenizer of another checkpoint', async () => {
    const [start, run] = [join(root, 'start'), join(root, 'started')];
    await using(await open('transformer', { vocabulary_limit: 2 }), (t) => t.export(start));
    await using(await open('transformer', {}, start), (t) => runSome(t, run, 2));
    await using(await open('transformer'), (t) =>
      assert.rejects(runSome(t, run), mismatch('text_tokenizer', /--init/)),
    );
    const [next] = await using(await open('transformer', {}, start), (t) => runSome(t, run, 3));
    assert.equal(next!.step, 3);
  });

  it('the examples in the documentation are whole', async () => {
    const text = await readFile(new URL('../../docs/training.md', import.meta.url), 'utf8');
    const [first, second] = [...text.matchAll(/```json\n({.*?)```/gs)].slice(0, 2).map(([, json]) => JSON.parse(json!));
    const placed = (config: { dataset: object }) => ({ ...config, dataset: { ...config.dataset, path: pictures } });
    const exported = join(root, 'documented');
    await using(await openTraining('tokenizer', { config: placed(first) }), (t) => t.export(exported));
    const model = join(root, 'documented-model');
    await using(await openTraining('transformer', { config: placed(second), tokenizer: exported }), (t) =>
      t.export(model),
    );
    const pipeline = await InfinityPipeline.fromPretrained(model);
    try {
      assert.deepEqual(pipeline.sizes, [[64, 64]]);
    } finally {
      await pipeline.dispose();
    }
  });

  it('goes on counting bad rows after a stop, each once, from wherever the folder lies then', async () => {
    const [here, there] = [join(root, 'half-bad'), join(root, 'half-bad-moved')];
    await mkdir(here);
    // Every other row is bad, and an epoch outlasts the run.
    for (let i = 0; i < 80; i++)
      if (i % 2 === 0) await writeFile(join(here, `${i}.png`), 'no picture');
      else await cp(join(pictures, '1.png'), join(here, `${i}.png`));
    const at = (path: string) => open('tokenizer', { dataset: dataset(path) });
    const counts = (events: readonly StepEvent[]) => events.map(({ badRows }) => badRows?.count ?? 0);
    const unbroken = counts(await using(await at(here), (t) => runSome(t, join(root, 'half-bad-whole'))));
    const run = join(root, 'half-bad-broken');
    await using(await at(here), (t) => runSome(t, run, 4));
    await rename(here, there);
    const rest = await using(await at(there), (t) => runSome(t, run));
    assert.ok(unbroken.at(-1)! < 40 && unbroken.at(-1)! > unbroken[0]!, 'some are found step by step');
    assert.deepEqual(counts(rest), unbroken.slice(-rest.length));
    assert.equal(rest.at(-1)!.badRows!.first.length, 5);
  });

  it('the command tells of bad rows on stderr and in its lines, and goes on', async () => {
    const damaged = join(root, 'damaged');
    await cp(pictures, damaged, { recursive: true });
    await writeFile(join(damaged, '3.png'), 'no picture');
    const config = join(root, 'config.json');
    const schedule = '1 2 4x2 8x4';
    await writeFile(config, JSON.stringify({ ...tokenizerConfig, schedule, dataset: dataset(damaged) }));
    const run = await call(['train', 'tokenizer', '-c', config, '-o', join(root, 'run'), '--json']);
    assert.equal(run.code, 0, run.stderr);
    assert.match(
      run.stderr,
      /^node-infinity: bsq.*\nnode-infinity: bad rows so far: 1;.*\n {2}3\.png: the picture cannot be decoded .*\n$/,
    );
    const lines = run.stdout.trim().split('\n');
    const { step, badRows } = JSON.parse(lines.at(-2)!);
    assert.equal(step, 6);
    assert.equal(badRows.count, 1);
  });
});
