import assert from 'node:assert/strict';
import fc from 'fast-check';
import { InfinityError } from '../../lib/errors.js';
import { type ByteSource, bytesInMemory } from '../../lib/io/byte_source.js';
import { ZipArchive } from '../../lib/io/zip.js';
import { type ZipOptions, type ZipRecord, zip } from '../support/torch_file.js';

const a: ZipRecord = { name: 'x/a', data: Buffer.from('hello, world') };
const b: ZipRecord = { name: 'x/b', data: Buffer.from([1, 2, 3]), padding: 9 };

const open = (bytes: Uint8Array): Promise<ZipArchive> => ZipArchive.open(bytesInMemory(bytes, 'test.zip'));
const read = async (bytes: Uint8Array, name: string, ...range: number[]): Promise<Uint8Array> => {
  const archive = await open(bytes);
  return archive.read(archive.entries.get(name)!, ...range);
};

describe('zip', () => {
  for (const zip64 of [false, true]) {
    it(`reads entries whole and in part${zip64 ? ', with 64-bit sizes' : ''}`, async () => {
      const bytes = zip([a, b], { zip64 });
      assert.deepEqual([...(await open(bytes)).entries.keys()], ['x/a', 'x/b']);
      assert.equal(Buffer.from(await read(bytes, 'x/a')).toString(), 'hello, world');
      assert.equal(Buffer.from(await read(bytes, 'x/a', 7, 12)).toString(), 'world');
      assert.deepEqual([...(await read(bytes, 'x/b'))], [1, 2, 3]);
    });
  }

  it('reads an archive without entries', async () => {
    assert.equal((await open(zip([]))).entries.size, 0);
  });

  it('touches no more of the source than it is asked for', async () => {
    const large = { name: 'x/large', data: Buffer.alloc(1 << 20) };
    const memory = bytesInMemory(zip([large, b]), 'test.zip');
    let touched = 0;
    const source: ByteSource = {
      ...memory,
      read: (begin, length) => {
        touched += length;
        return memory.read(begin, length);
      },
    };
    const archive = await ZipArchive.open(source);
    await archive.read(archive.entries.get('x/b')!);
    assert.ok(touched < 1000, `${touched} bytes`);
  });

  const refused: [string, ZipRecord[], RegExp, ZipOptions?][] = [
    ['the same name twice', [a, { ...b, name: 'x/a' }], /twice/],
    ['a path that climbs', [{ ...a, name: '../a' }], /named/],
    ['a path that climbs further in', [{ ...a, name: 'x/../../a' }], /named/],
    ['an absolute path', [{ ...a, name: '/etc/a' }], /named/],
    ['a drive', [{ ...a, name: 'C:a' }], /named/],
    ['a backslash', [{ ...a, name: 'x\\a' }], /named/],
    ['a zero byte', [{ ...a, name: 'x/\0' }], /named/],
    ['a folder', [{ ...a, name: 'x/' }], /named/],
    ['a compressed entry', [{ ...a, lie: { method: 8 } }], /compressed/],
    ['an encrypted entry', [{ ...a, lie: { flags: 1 } }], /encrypted/],
    ['two sizes', [{ ...a, lie: { packed: 11 } }], /two sizes/],
    ['an entry larger than the archive', [{ ...a, lie: { size: 4_000_000_000 } }], /overlaps/],
    ['an entry that runs into the next', [{ ...a, lie: { size: 20 } }, b], /overlaps/],
    ['two entries in one place', [a, { ...b, lie: { offset: 0 } }], /overlaps/],
    ['an entry beyond the end', [{ ...a, lie: { offset: 1 << 30 } }], /overlaps/],
    ['a wrong number of entries', [a, b], /longer|claims/, { count: 1 }],
    ['too many entries', [a, b], /claims 60000/, { count: 60000 }],
    ['a comment', [a], /directory/, { comment: 'PK' }],
    ['absurd 64-bit sizes', [{ ...a, lie: { size: 2 ** 60 } }], /overlaps/, { zip64: true }],
    ['an absurd 64-bit place', [{ ...a, lie: { offset: 2 ** 62 } }], /overlaps/, { zip64: true }],
    ['an absurd 64-bit count', [a], /claims/, { zip64: true, count: 2 ** 50 }],
  ];
  for (const [title, records, message, options] of refused) {
    it(`refuses ${title}`, async () => {
      await assert.rejects(open(zip(records, options)), { code: 'CHECKPOINT_INVALID', message });
    });
  }

  it('refuses a wrong checksum, whole and in part, and local headers that contradict', async () => {
    const wrong = zip([{ ...a, lie: { crc: 1 } }]);
    await assert.rejects(read(wrong, 'x/a'), { code: 'CHECKPOINT_INVALID', message: /checksum of "x\/a"/ });
    await assert.rejects(read(wrong, 'x/a', 2, 4), { code: 'CHECKPOINT_INVALID', message: /checksum/ });
    const renamed = zip([{ ...a, localName: 'x/z' }]);
    await assert.rejects(read(renamed, 'x/a'), { code: 'CHECKPOINT_INVALID', message: /contradicts/ });
    const padded = zip([a, b]);
    padded.writeUInt16LE(500, 28);
    await assert.rejects(read(padded, 'x/a'), { code: 'CHECKPOINT_INVALID', message: /overlaps/ });
  });

  it('refuses every archive that was cut short', async () => {
    for (const zip64 of [false, true]) {
      const bytes = zip([a, b], { zip64 });
      for (let length = 0; length < bytes.length; length++)
        await assert.rejects(open(bytes.subarray(0, length)), { code: 'CHECKPOINT_INVALID' }, String(length));
    }
  });

  it('survives altered bytes', async () => {
    const good = zip([a, b], { zip64: true });
    await fc.assert(
      fc.asyncProperty(fc.nat(good.length - 1), fc.nat(255), async (at, byte) => {
        const bytes = Buffer.from(good);
        bytes[at] = byte;
        try {
          const archive = await open(bytes);
          for (const entry of archive.entries.values()) await archive.read(entry);
        } catch (error) {
          assert.ok(error instanceof InfinityError && error.code === 'CHECKPOINT_INVALID', String(error));
        }
      }),
      { numRuns: 500 },
    );
  });
});
