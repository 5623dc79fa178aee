import assert from 'node:assert/strict';
import { copyFile, mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { BadRows } from '../../lib/data/bad_rows.js';
import { type Batch, drawBatch } from '../../lib/data/batch.js';
import { findDataset, openDataset } from '../../lib/data/dataset.js';
import { Loader } from '../../lib/data/loader.js';
import type { Purpose } from '../../lib/data/sample.js';
import type { DatasetSpec, FolderSpec } from '../../lib/data/spec.js';
import { InfinityError } from '../../lib/errors.js';
import { loadImage } from '../../lib/io/image.js';
import { resizeCenterCrop } from '../../lib/io/resize.js';

const SIZE = 16;

/** A picture whose columns differ, so that a crop or a mirrored one is seen. */
async function picture(path: string, level: number, width = 40, height = 24): Promise<void> {
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < data.length; i++) data[i] = i % 3 === 0 ? level : (Math.floor(i / 3) % width) * 3;
  await sharp(data, { raw: { width, height, channels: 3 } }).toFile(path);
}

describe('sets of picture files', () => {
  let root: string;
  let spec: FolderSpec;
  const names = ['a.png', 'b.JPG', 'deep/c.webp', 'deep/er/d.avif', 'e.jpeg', 'z.png'];
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-pictures-'));
    const folder = join(root, 'pictures');
    await mkdir(join(folder, 'deep/er'), { recursive: true });
    for (const [i, name] of names.entries()) {
      await picture(join(folder, name.replace('JPG', 'jpg')), 40 * i);
      await writeFile(join(folder, name.replace(/\.\w+$/, '.txt')), ` caption ${i}\n`);
    }
    await rename(join(folder, 'b.jpg'), join(folder, 'b.JPG'));
    await writeFile(join(folder, 'notes.md'), 'no picture');
    await writeFile(join(folder, '._a.png'), 'a note of the system');
    spec = { kind: 'folder', path: folder, seed: 7, size: SIZE };
  });
  after(() => rm(root, { recursive: true, force: true }));

  const draw = async (from: DatasetSpec, first: number, count: number, purpose: Purpose = 'transformer') =>
    drawBatch(openDataset(await findDataset(from, purpose)), { first, count });
  const captions = async (from: DatasetSpec, first: number, count: number): Promise<readonly string[]> =>
    (await draw(from, first, count)).captions;
  const failsWith = (code: string, message: RegExp) => (e: unknown) => {
    assert.ok(e instanceof InfinityError && e.code === code && e.cure !== undefined, String(e));
    assert.match(e.message, message);
    return true;
  };

  /** A copy of the folder that a test may damage. */
  async function copied(name: string): Promise<FolderSpec> {
    const path = join(root, name);
    await mkdir(path);
    for (const [i, file] of names.entries()) {
      const stem = `${i}`;
      await copyFile(join(spec.path, file), join(path, stem + file.slice(file.lastIndexOf('.'))));
      await writeFile(join(path, `${stem}.txt`), `caption ${i}`);
    }
    return { ...spec, path };
  }

  it('every epoch is a permutation of all pictures, another one for each epoch and seed', async () => {
    const epochs = await captions(spec, 0, 24);
    const sorted = names.map((_, i) => `caption ${i}`);
    const orders = [0, 6, 12, 18].map((at) => epochs.slice(at, at + 6));
    for (const order of orders) assert.deepEqual([...order].sort(), sorted);
    const other = await captions({ ...spec, seed: 8 }, 0, 6);
    assert.ok(new Set([...orders, other].map(String)).size >= 4, 'orders repeat');
  });

  it('a sample is a function of the index alone', async () => {
    for (const purpose of ['tokenizer', 'transformer'] as const) {
      const whole = await draw(spec, 4, 5, purpose);
      const last = await draw(spec, 8, 1, purpose);
      assert.deepEqual(last.pixels, whole.pixels.subarray(4 * SIZE * SIZE * 3));
    }
  });

  it('the transformer gets the middle of each picture as the preparation of pictures gives it', async () => {
    for (const size of [SIZE, [32, 16], [16, 48]] as const) {
      const [height, width] = typeof size === 'number' ? [size, size] : size;
      const { pixels, captions } = await draw({ ...spec, size }, 0, 6);
      for (const [i, caption] of captions.entries()) {
        const name = names[Number(caption.split(' ')[1])]!;
        const expected = resizeCenterCrop(await loadImage(join(spec.path, name)), height, width).data;
        assert.deepEqual(pixels.subarray(i * expected.length, (i + 1) * expected.length), expected);
      }
    }
  });

  it('the tokenizer gets random crops, half of them mirrored, and needs no captions', async () => {
    const path = join(root, 'bare');
    await mkdir(path);
    await picture(join(path, 'one.png'), 90, 64, 16);
    const { pixels, captions } = await draw({ ...spec, path }, 0, 60, 'tokenizer');
    assert.ok(captions.every((caption) => caption === ''));
    const starts = new Set<number>();
    let mirrored = 0;
    for (let i = 0; i < 60; i++) {
      const at = i * SIZE * SIZE * 3;
      const [first, second] = [pixels[at + 1]!, pixels[at + 4]!];
      if (second < first) mirrored++;
      const left = Math.min(first, pixels[at + (SIZE - 1) * 3 + 1]!);
      // Columns rise by three: what was cut is a run of columns, untouched.
      const run = Array.from({ length: SIZE }, (_, x) => left + 3 * (second < first ? SIZE - 1 - x : x));
      assert.deepEqual(
        Array.from({ length: SIZE }, (_, x) => pixels[at + x * 3 + 1]),
        run,
      );
      starts.add(left);
    }
    assert.ok(starts.size > 15 && mirrored > 15 && mirrored < 45, `${starts.size} crops, ${mirrored} mirrored`);
  });

  it('replaces bad rows by the next good one of the epoch, counts each once and says why', async () => {
    const damaged = await copied('damaged');
    await writeFile(join(damaged.path, '1.JPG'), 'no picture');
    await writeFile(join(damaged.path, '3.txt'), ' \n');
    await rm(join(damaged.path, '5.txt'));
    const good = await captions({ ...spec, path: (await copied('healthy')).path }, 0, 12);
    const loader = new Loader(await findDataset(damaged, 'transformer'), { batchSize: 4, start: 0, ahead: 2 });
    const batches: Batch[] = [];
    try {
      for (let i = 0; i < 3; i++) batches.push(await loader.next());
      const { count, first } = loader.badRows();
      assert.equal(count, 3);
      assert.match(first[0]!, /^3\.avif: no caption: 3\.txt is empty$/);
      assert.match(first[1]!, /^5\.png: no caption: 5\.txt is missing$/);
      assert.match(first[2]!, /^1\.JPG: the picture cannot be decoded/);
    } finally {
      await loader.close();
    }
    const bad = new Set(['caption 1', 'caption 3', 'caption 5']);
    const expected = good.map((_, i) => {
      const epoch = Math.floor(i / 6) * 6;
      for (let step = 0; ; step++) {
        const caption = good[epoch + ((i - epoch + step) % 6)]!;
        if (!bad.has(caption)) return caption;
      }
    });
    assert.deepEqual(
      batches.flatMap((batch) => batch.captions),
      expected,
    );
    // The same from any thread and any start.
    assert.deepEqual(await draw(damaged, 4, 4), batches[1]);
  });

  it('counts a bad row once for all stages of a run, whose sizes may differ; rows of another set are others', async () => {
    const [one, two] = [await copied('stage one'), await copied('stage two')];
    for (const { path } of [one, two]) await writeFile(join(path, '1.JPG'), 'no picture');
    await rm(join(two.path, '5.txt'));
    const bad = new BadRows([one.path, two.path]);
    const counts: number[] = [];
    for (const stage of [one, { ...one, size: 2 * SIZE }, two]) {
      const loader = new Loader(await findDataset(stage, 'transformer'), { batchSize: 6, start: 0, ahead: 0, bad });
      await loader.next();
      counts.push(bad.report().count);
    }
    assert.deepEqual(counts, [1, 1, 3]);

    // A part of the run that starts where the sets lie elsewhere, and meets a row again and another.
    const saved = JSON.parse(JSON.stringify(bad.save()));
    const next = new BadRows(['/elsewhere/one', '/elsewhere/two'], saved);
    assert.deepEqual(next.report(), bad.report());
    next.add(
      '/elsewhere/two',
      [1, 5, 4].map((row) => ({ row, name: `${row}.png`, reason: 'why not' })),
    );
    assert.equal(next.report().count, 4);
    assert.deepEqual(next.report().first, [...bad.report().first, '4.png: why not']);
  });

  it('ends when no row is good, whether that is seen in the listing or in the pictures', async () => {
    const damaged = await copied('hopeless');
    for (const [i, name] of names.entries())
      await writeFile(join(damaged.path, i + name.slice(name.lastIndexOf('.'))), 'no picture');
    for (const ahead of [0, 2]) {
      const loader = new Loader(await findDataset(damaged, 'tokenizer'), { batchSize: 2, start: 0, ahead });
      try {
        await assert.rejects(loader.next(), failsWith('INVALID_ARGUMENT', /All 6 rows.*cannot be decoded/));
      } finally {
        await loader.close();
      }
    }
    for (let i = 0; i < names.length; i++) await rm(join(damaged.path, `${i}.txt`));
    await assert.rejects(findDataset(damaged, 'transformer'), failsWith('INVALID_ARGUMENT', /no caption/));
  });

  it('a digest tells whether names, contents and captions are the same, wherever they lie', async () => {
    const digest = async (from: DatasetSpec, purpose: Purpose = 'transformer') =>
      (await findDataset(from, purpose)).listing!.digest;
    const one = await copied('one');
    const first = await digest(one);
    assert.equal(await digest(await copied('two')), first);
    const bare = await digest(one, 'tokenizer');
    await writeFile(join(one.path, '2.txt'), 'caption two');
    assert.notEqual(await digest(one), first);
    assert.equal(await digest(one, 'tokenizer'), bare, 'captions are nothing to the tokenizer');
    await writeFile(join(one.path, '2.txt'), 'caption 2');
    assert.equal(await digest(one), first);
    await picture(join(one.path, '2.webp'), 3, 80, 60);
    assert.notEqual(await digest(one), first);
    await rm(join(one.path, '2.webp'));
    assert.notEqual(await digest(one, 'tokenizer'), bare);
  });

  it('reads the official form: paths from the folder of the file, broken lines counted', async () => {
    const line = (fields: object): string => JSON.stringify(fields);
    const file = join(root, 'set.jsonl');
    const good = { image_path: 'pictures/a.png', h_div_w: 0.6, long_caption: 'A long one.', text: 'short' };
    await writeFile(
      file,
      [
        line(good),
        '{"image_path": ',
        '',
        line({ ...good, image_path: 'pictures/none.png' }),
        line({ ...good, long_caption: '', text: '' }),
        line({ ...good, image_path: undefined }),
        '[1]',
        line({ ...good, image_path: join(spec.path, 'z.png'), long_caption: 'Absolute. --ar 1:1' }),
      ].join('\r\n'),
    );
    const jsonl = { kind: 'jsonl', path: file, seed: 1, size: SIZE, short_cap_prob: 0 } as const;
    const loader = new Loader(await findDataset(jsonl, 'transformer'), { batchSize: 14, start: 0, ahead: 0 });
    const batch = await loader.next();
    assert.deepEqual([...new Set(batch.captions)].sort(), ['A long one.', 'Absolute.']);
    const { count, first } = loader.badRows();
    assert.equal(count, 5);
    assert.deepEqual(
      first.map((reason) => reason.replace(/(not JSON):.*/, '$1').replace(root, '')),
      [
        'set.jsonl:2: not JSON',
        `set.jsonl:4: no picture file ${join('/pictures', 'none.png')}`,
        'set.jsonl:5: no caption: long_caption and text are empty',
        'set.jsonl:6: no image_path',
        'set.jsonl:7: not a JSON object',
      ],
    );
    const folder = join(root, 'sets');
    await mkdir(folder);
    for (const name of ['1.000_000000001.jsonl', '1.500_000000001.jsonl'])
      await writeFile(join(folder, name), line({ ...good, image_path: '../pictures/a.png', long_caption: name }));
    const both = await captions({ ...jsonl, path: folder }, 0, 2);
    assert.deepEqual([...both].sort(), ['1.000_000000001.jsonl', '1.500_000000001.jsonl']);
    await writeFile(join(folder, '1.000_000000001.jsonl'), line(good));
    await writeFile(join(folder, '1.500_000000001.jsonl'), line({ ...good, image_path: 'pictures/z.png' }));
    const elsewhere = { ...jsonl, path: folder, image_root: root };
    assert.deepEqual(await captions(elsewhere, 0, 2), ['A long one.', 'A long one.']);
    await assert.rejects(
      captions({ ...jsonl, path: folder }, 0, 2),
      failsWith('INVALID_ARGUMENT', /no picture file .*sets.pictures.a\.png/),
    );
  });

  it('refuses specs and paths that mean nothing, naming the field', async () => {
    const wrong: [object, string, RegExp][] = [
      [{ ...spec, path: join(root, 'nowhere') }, 'IO_ERROR', /nowhere/],
      [{ ...spec, path: join(root, 'sets') }, 'INVALID_ARGUMENT', /dataset\.path/],
      [{ ...spec, path: 3 }, 'INVALID_ARGUMENT', /dataset\.path/],
      [{ ...spec, size: [16] }, 'INVALID_ARGUMENT', /dataset\.size/],
      [{ ...spec, size: 8 }, 'INVALID_ARGUMENT', /dataset\.size/],
      [{ ...spec, short_cap_prob: 0.5 }, 'INVALID_ARGUMENT', /dataset\.short_cap_prob/],
      [{ ...spec, image_root: '.' }, 'INVALID_ARGUMENT', /dataset\.image_root/],
      [{ ...spec, kind: 'jsonl', image_root: 3 }, 'INVALID_ARGUMENT', /dataset\.image_root/],
      [{ ...spec, kind: 'jsonl', short_cap_prob: 2 }, 'INVALID_ARGUMENT', /dataset\.short_cap_prob/],
      [{ ...spec, kind: 'toString' }, 'INVALID_ARGUMENT', /shapes, folder, jsonl for dataset\.kind/],
      [{ kind: 'shapes', seed: 1, size: 16, path: 'x' }, 'INVALID_ARGUMENT', /dataset\.path/],
    ];
    for (const [json, code, message] of wrong)
      await assert.rejects(findDataset(json as DatasetSpec, 'transformer'), failsWith(code, message));
  });
});
