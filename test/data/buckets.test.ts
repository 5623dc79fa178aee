import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { type Batch, drawBatch, splitBatch } from '../../lib/data/batch.js';
import { BucketPlan } from '../../lib/data/buckets.js';
import { findDataset, openDataset } from '../../lib/data/dataset.js';
import { Loader } from '../../lib/data/loader.js';
import type { DatasetSpec, FolderSpec } from '../../lib/data/spec.js';
import { loadImage } from '../../lib/io/image.js';
import { resizeCenterCrop } from '../../lib/io/resize.js';

const SIZES = [
  [16, 16],
  [16, 32],
  [32, 16],
] as const;
/** Widths and heights of the pictures, those of each size together. */
const SHAPES = [
  ...[
    [40, 40],
    [44, 40],
    [30, 30],
    [20, 21],
  ],
  ...[
    [60, 32],
    [90, 40],
  ],
  ...[
    [20, 50],
    [20, 40],
    [24, 60],
    [18, 30],
    [30, 60],
  ],
] as const;
const BUCKET = [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2];

describe('pictures of mixed shapes', () => {
  let root: string;
  let spec: FolderSpec;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-buckets-'));
    const path = join(root, 'pictures');
    await mkdir(path);
    for (const [i, [width, height]] of SHAPES.entries()) {
      const data = Uint8Array.from({ length: width * height * 3 }, (_, j) => (j * (i + 3)) % 256);
      await sharp(data, { raw: { width, height, channels: 3 } }).toFile(join(path, `${i}.png`));
      await writeFile(join(path, `${i}.txt`), `${i}`);
    }
    spec = { kind: 'folder', path, seed: 3, sizes: SIZES };
  });
  after(() => rm(root, { recursive: true, force: true }));

  const draw = async (from: DatasetSpec, number: number, count: number): Promise<Batch> =>
    drawBatch(openDataset(await findDataset(from, 'transformer')), { first: number * count, count });

  it('a batch holds one size, and each picture is cut to the nearest', async () => {
    for (let k = 0; k < 8; k++) {
      const { size, pixels, captions } = await draw(spec, k, 2);
      const [height, width] = size;
      for (const [i, caption] of captions.entries()) {
        assert.deepEqual(size, SIZES[BUCKET[Number(caption)]!]);
        const own = resizeCenterCrop(await loadImage(join(spec.path, `${caption}.png`)), height, width).data;
        assert.deepEqual(pixels.subarray(i * own.length, (i + 1) * own.length), own);
      }
    }
  });

  it('every picture of a size comes once before one comes again; sizes come as often as their pictures', async () => {
    const seen = new Map<string, string[]>();
    const dataset = openDataset(await findDataset(spec, 'transformer'));
    // Eleven pictures in batches of two: a cycle of two, one and three batches.
    for (let k = 0; k < 24; k++) {
      const { size, captions } = await drawBatch(dataset, { first: 2 * k, count: 2 });
      seen.set(`${size}`, [...(seen.get(`${size}`) ?? []), ...captions]);
    }
    assert.deepEqual(
      SIZES.map((size) => seen.get(`${size}`)!.length),
      [16, 8, 24],
    );
    for (const [bucket, size] of SIZES.entries()) {
      const rows = BUCKET.flatMap((b, i) => (b === bucket ? [`${i}`] : [])).sort();
      const walk = seen.get(`${size}`)!;
      for (let at = 0; at + rows.length <= walk.length; at += rows.length)
        assert.deepEqual(walk.slice(at, at + rows.length).sort(), rows);
    }
  });

  it('a batch is a function of its number alone, through the loader too', async () => {
    const source = await findDataset(spec, 'transformer');
    const loader = new Loader(source, { batchSize: 3, start: 12, ahead: 2 });
    try {
      for (let k = 4; k < 9; k++) assert.deepEqual(await loader.next(), await draw(spec, k, 3));
    } finally {
      await loader.close();
    }
  });

  it('parts of a batch keep its size and its samples', async () => {
    const batch = await draw(spec, 1, 4);
    const parts = splitBatch(batch, 2);
    assert.deepEqual(
      parts.map(({ first, captions }) => [first, captions]),
      [
        [4, batch.captions.slice(0, 2)],
        [6, batch.captions.slice(2)],
      ],
    );
    assert.deepEqual(Uint8Array.from(parts.flatMap(({ pixels }) => [...pixels])), batch.pixels);
    for (const { size } of parts) assert.equal(size, batch.size);
  });

  it('a line of the official form tells its shape; a size without a good picture takes others', async () => {
    const path = join(root, 'set.jsonl');
    const line = (image: string, h_div_w?: number) => JSON.stringify({ image_path: image, text: image, h_div_w });
    await writeFile(join(root, 'broken.png'), 'no picture');
    // The one line that claims to be wide has no picture.
    await writeFile(path, [line('pictures/0.png', 2), line('pictures/6.png'), line('broken.png', 0.5)].join('\n'));
    const jsonl: DatasetSpec = { kind: 'jsonl', path, seed: 1, sizes: SIZES };
    const batches = await Promise.all([0, 1, 2, 3].map((k) => draw(jsonl, k, 1)));
    const tall = batches.filter(({ size }) => size === SIZES[2]);
    assert.deepEqual(new Set(tall.flatMap(({ captions }) => captions)), new Set(['pictures/0.png', 'pictures/6.png']));
    const wide = batches.filter(({ size }) => size === SIZES[1]);
    assert.ok(wide.length >= 1 && batches.length === tall.length + wide.length);
    for (const { captions, bad } of wide) {
      assert.notEqual(captions[0], 'broken.png');
      assert.deepEqual(
        bad.map(({ name }) => name),
        ['set.jsonl:3'],
      );
    }
  });

  it('a plan leaves out no row when batches do not fill a cycle', () => {
    const plan = new BucketPlan([5, 0, 2], [1]);
    const next = [0, 0, 0];
    for (let k = 0; k < 20; k++) {
      const { bucket, position } = plan.at({ first: 4 * k, count: 4 });
      assert.equal(position, next[bucket]);
      next[bucket]! += 4;
    }
    assert.deepEqual(next, [40, 0, 40]);
  });

  it('refuses sizes that mean nothing', async () => {
    const wrong = [
      {
        sizes: [
          [16, 16],
          [32, 32],
        ],
      },
      { sizes: [] },
      { sizes: [[16]] },
      { sizes: SIZES, size: 16 },
      { sizes: undefined },
    ];
    for (const change of wrong)
      await assert.rejects(findDataset({ ...spec, ...change } as unknown as DatasetSpec, 'transformer'), {
        code: 'INVALID_ARGUMENT',
        message: /dataset\.sizes?/,
      });
  });
});
