import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { FileDigests } from '../../lib/data/file_digests.js';
import { BlobCache } from '../../lib/io/blob_cache.js';

describe('digests of files', () => {
  let root: string;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-digests-'));
  });
  after(() => rm(root, { recursive: true, force: true }));

  const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

  it('are those of the contents, and see new content of the same size and time', async () => {
    const cache = new BlobCache(join(root, 'cache'));
    const [path, big] = [join(root, 'a.png'), join(root, 'b.png')];
    await writeFile(path, 'first');
    await writeFile(big, 'x'.repeat(1_000_000));
    const open = () => new FileDigests(cache).of(root);
    let digests = await open();
    assert.equal(await digests.of(path), sha256('first'));
    assert.equal(await digests.of(big), sha256('x'.repeat(1_000_000)));
    // What was written just now is not kept: it may be written again within the resolution of the file's times.
    await digests.save();
    assert.equal((await cache.read(`file digests 1\n${root}`)).bytes, undefined);
    await sleep(2100);
    digests = await open();
    await digests.of(path);
    await digests.save();
    assert.match(String(Buffer.from((await cache.read(`file digests 1\n${root}`)).bytes!)), /a\.png/);

    const { atime, mtime } = await stat(path);
    await writeFile(path, 'other');
    await utimes(path, atime, mtime);
    assert.equal(await (await open()).of(path), sha256('other'));
  });

  it('are not read again while size and times stay, and survive a damaged index', async () => {
    const cache = new BlobCache(join(root, 'kept'));
    const path = join(root, 'a.png');
    const { size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
    const known = [path, `${size} ${mtimeNs} ${ctimeNs}`, 'a digest that was kept'];
    await cache.write('file digests 1\nset', Buffer.from(`${JSON.stringify(known)}\n`));
    assert.equal(await (await new FileDigests(cache).of('set')).of(path), 'a digest that was kept');
    await cache.write('file digests 1\nset', Buffer.from('damaged'));
    const file = (await readFile(path)).toString();
    await assert.doesNotReject(async () => {
      const entry = await new FileDigests(new BlobCache(join(root, 'none'))).of('set');
      assert.equal(await entry.of(path), sha256(file));
    });
  });
});
