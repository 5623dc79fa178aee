import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BlobCache } from '../../lib/io/blob_cache.js';
import { withRoom } from '../support/full_disk.js';

describe('cache of computed bytes', () => {
  let root: string;
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-cache-'));
  });
  afterEach(() => rm(root, { recursive: true, force: true }));

  const bytes = (value: number, length = 100): Uint8Array => new Uint8Array(length).fill(value);
  const files = async (): Promise<string[]> =>
    (await readdir(root, { recursive: true, withFileTypes: true }))
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name));

  it('gives back what was written under a key, in any process that has the folder', async () => {
    const cache = new BlobCache(join(root, 'new'));
    assert.deepEqual(await cache.read('a'), { key: 'a' });
    await cache.write('a', bytes(1));
    await cache.write('b', bytes(2, 0));
    assert.deepEqual(await new BlobCache(join(root, 'new')).read('a'), { key: 'a', bytes: bytes(1) });
    assert.deepEqual(await cache.read('b'), { key: 'b', bytes: bytes(0, 0) });
    await cache.write('a', bytes(3));
    assert.deepEqual((await cache.read('a')).bytes, bytes(3));
  });

  it('a byte that changed, an entry cut short and one under the name of another are damaged', async () => {
    const cache = new BlobCache(root);
    await cache.write('a', bytes(1));
    const [file] = await files();
    const whole = await readFile(file!);
    for (let at = 0; at < whole.length; at++) {
      const changed = Buffer.from(whole);
      changed[at]! ^= 4;
      await writeFile(file!, changed);
      assert.deepEqual(await cache.read('a'), { key: 'a', damaged: true }, `byte ${at}`);
    }
    for (const length of [0, 10, 32, 100]) {
      await writeFile(file!, whole.subarray(0, length));
      assert.deepEqual(await cache.read('a'), { key: 'a', damaged: true });
    }
    await writeFile(file!, whole);
    await cache.write('b', bytes(1));
    const other = (await files()).find((path) => path !== file)!;
    await writeFile(other, whole);
    assert.deepEqual(await cache.read('b'), { key: 'b', damaged: true });
  });

  it('stays within its limit, the oldest entries going first, those of other processes included', async () => {
    const other = new BlobCache(root);
    const names: string[] = [];
    for (let i = 0; i < 8; i++) {
      await other.write(`old ${i}`, bytes(i));
      const fresh = (await files()).find((path) => !names.includes(path))!;
      names.push(fresh);
      await utimes(fresh, i + 1, i + 1);
    }
    // 132 bytes an entry: seven of them fit into fifteen sixteenths of the limit.
    const cache = new BlobCache(root, 1000);
    await cache.write('new', bytes(9));
    const there = await Promise.all(['old 0', 'old 1', 'old 2', 'old 7', 'new'].map((key) => cache.read(key)));
    assert.deepEqual(
      there.map((found) => found.bytes !== undefined),
      [false, false, true, true, true],
    );
    for (let i = 0; i < 30; i++) {
      await cache.write(`more ${i}`, bytes(i));
      assert.ok((await files()).length * 132 <= 1000);
    }
    assert.ok((await cache.read('more 29')).bytes);
  });

  it('leaves alone what is not its own, and removes what killed writers left long ago', async () => {
    const cache = new BlobCache(root, 1);
    await cache.write('a', bytes(1));
    const folder = join(root, '00');
    await cache.write('b', bytes(1));
    await mkdir(folder, { recursive: true });
    const half = (age: string): string => join(folder, `.${'0'.repeat(63)}${age}.0123456789ab.tmp`);
    for (const name of ['notes.txt', half('1').slice(folder.length + 1), half('2').slice(folder.length + 1)])
      await writeFile(join(folder, name), 'half');
    await utimes(half('1'), 1, 1);
    await cache.write('c', bytes(1));
    const left = await files();
    assert.ok(left.includes(join(folder, 'notes.txt')) && left.includes(half('2')) && !left.includes(half('1')));
  });

  it('a full disk ends the writing, and nothing else', async () => {
    const cache = new BlobCache(root);
    await cache.write('a', bytes(1));
    await withRoom(50, () => cache.write('b', bytes(2)));
    assert.equal(cache.writeFailure?.code, 'DISK_FULL');
    assert.deepEqual(await cache.read('b'), { key: 'b' });
    assert.deepEqual((await cache.read('a')).bytes, bytes(1));
    assert.equal((await files()).length, 1);
  });
});
