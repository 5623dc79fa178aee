import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AppendFile, type WholeLine, wholeLines } from '../../lib/io/append_file.js';
import { pictureGrid } from '../../lib/io/picture_grid.js';
import { withRoom } from '../support/full_disk.js';

describe('files that grow', () => {
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'infinity-append-'));
  });
  after(() => rm(directory, { recursive: true, force: true }));

  const linesOf = async (path: string): Promise<WholeLine[]> => {
    const lines: WholeLine[] = [];
    for await (const line of wholeLines(path)) lines.push(line);
    return lines;
  };

  it('give their whole lines and where these end, across pieces and characters of several bytes', async () => {
    const path = join(directory, 'lines');
    assert.deepEqual(await linesOf(path), []);
    const texts = ['', 'ä'.repeat(50_000), 'b', '', '€'.repeat(70_001)];
    await writeFile(path, `${texts.join('\n')}\ncut off by a cra`);
    const lines = await linesOf(path);
    assert.deepEqual(
      lines.map(({ text }) => text),
      texts,
    );
    const bytes = await readFile(path);
    for (const [i, { end }] of lines.entries()) {
      assert.equal(bytes[end - 1], 10);
      assert.equal(end, Buffer.byteLength(`${texts.slice(0, i + 1).join('\n')}\n`));
    }
  });

  it('are cut where they are opened and go on from there', async () => {
    const path = join(directory, 'cut');
    await writeFile(path, 'one\ntwo\nthr');
    const file = await AppendFile.open(path, 8);
    assert.equal(await readFile(path, 'utf8'), 'one\ntwo\n');
    await file.append(Buffer.from('three\n'));
    await file.sync();
    await file.close();
    assert.equal(await readFile(path, 'utf8'), 'one\ntwo\nthree\n');
  });

  it('hold whole records alone when the disk is full, and take more when there is room again', async () => {
    const path = join(directory, 'full');
    const file = await AppendFile.open(path);
    await file.append(Buffer.from('before\n'));
    await withRoom(3, () =>
      assert.rejects(file.append(Buffer.from('too long\n')), { code: 'DISK_FULL', value: path, cure: /space/ }),
    );
    assert.equal(await readFile(path, 'utf8'), 'before\n');
    await file.append(Buffer.from('after\n'));
    await file.close();
    assert.equal(await readFile(path, 'utf8'), 'before\nafter\n');
  });

  it('say so when they cannot be opened or written', async () => {
    await assert.rejects(AppendFile.open(join(directory, 'missing', 'file')), { code: 'IO_ERROR', cure: /folder/ });
    if (process.platform !== 'linux') return;
    const full = await AppendFile.open('/dev/full');
    await assert.rejects(full.append(Buffer.from('x')), { code: 'DISK_FULL', value: '/dev/full' });
    await full.sync();
    await full.close();
  });
});

describe('a grid of pictures', () => {
  it('puts rows of pictures side by side with a line between', () => {
    const picture = (v: number) => ({ width: 2, height: 1, data: new Uint8Array(6).fill(v) });
    const { width, height, data } = pictureGrid([[picture(1), picture(2)], [picture(3)]]);
    assert.deepEqual([width, height], [6, 4]);
    const red = Array.from({ length: height }, (_, y) =>
      Array.from({ length: width }, (_, x) => data[(y * width + x) * 3]),
    );
    assert.deepEqual(red, [
      [1, 1, 128, 128, 2, 2],
      [128, 128, 128, 128, 128, 128],
      [128, 128, 128, 128, 128, 128],
      [3, 3, 128, 128, 128, 128],
    ]);
    assert.throws(() => pictureGrid([]), { code: 'INVALID_ARGUMENT' });
    assert.throws(() => pictureGrid([[picture(1), { width: 1, height: 2, data: new Uint8Array(6) }]]), {
      code: 'INVALID_ARGUMENT',
    });
  });
});
