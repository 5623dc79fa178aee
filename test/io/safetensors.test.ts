import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { openTensors } from '../../lib/io/open_tensors.js';
import {
  parseSafetensors,
  readSafetensors,
  SafetensorsFile,
  serializeSafetensors,
  writeSafetensors,
} from '../../lib/io/safetensors.js';
import {
  DTYPE_BYTES,
  elementCount,
  fromFloat32,
  type TensorData,
  type TensorDType,
  toFloat32,
  toFloat64,
} from '../../lib/io/tensor_data.js';

const dtypes = Object.keys(DTYPE_BYTES) as TensorDType[];

const anyTensor: fc.Arbitrary<TensorData> = fc
  .tuple(fc.constantFrom(...dtypes), fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 }))
  .chain(([dtype, shape]) => {
    const bytes = elementCount(shape) * DTYPE_BYTES[dtype];
    return fc.uint8Array({ minLength: bytes, maxLength: bytes }).map((data) => ({ dtype, shape, data }));
  });
const anyName = fc.string({ minLength: 1, maxLength: 12, unit: 'grapheme' }).filter((name) => name !== '__metadata__');
const anyTensors = fc.dictionary(anyName, anyTensor, { maxKeys: 8 }).map((record) => new Map(Object.entries(record)));

/** A file with a hand-written header. */
function file(header: unknown, dataBytes: number): Buffer {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.byteLength));
  return Buffer.concat([length, json, Buffer.alloc(dataBytes)]);
}

const f32 = (begin: number, end: number, shape = [(end - begin) / 4]) => ({
  dtype: 'F32',
  shape,
  data_offsets: [begin, end],
});

describe('safetensors', () => {
  let dir: string;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'safetensors-'));
  });
  afterEach(() => rm(dir, { recursive: true }));

  it('any tensors survive a round trip, and wide ones are aligned', () => {
    fc.assert(
      fc.property(anyTensors, fc.dictionary(fc.string(), fc.string()), (tensors, metadata) => {
        const bytes = new Uint8Array(serializeSafetensors(tensors, metadata));
        const read = parseSafetensors(bytes);
        assert.equal(read.size, tensors.size);
        for (const [name, { dtype, shape, data }] of tensors) {
          const got = read.get(name);
          assert.deepEqual({ ...got, data: [...(got?.data ?? [])] }, { dtype, shape, data: [...data] });
          assert.equal((got?.data.byteOffset ?? 0) % DTYPE_BYTES[dtype], 0);
        }
      }),
    );
  });

  it('writes and reads a file, lazily and whole', async () => {
    const path = join(dir, 'model.safetensors');
    const tensors = new Map([
      ['a', fromFloat32(Float32Array.of(1, 2, 3, 4), [2, 2])],
      ['b', fromFloat32(Float32Array.of(0.5, -1), [2], 'BF16')],
    ]);
    await writeSafetensors(path, tensors, { format: 'pt' });
    assert.deepEqual(await readdir(dir), ['model.safetensors']);
    const opened = await SafetensorsFile.open(path);
    assert.deepEqual(opened.metadata, { format: 'pt' });
    assert.deepEqual(opened.tensors.get('a')?.shape, [2, 2]);
    assert.deepEqual([...toFloat32(await opened.read('b'))], [0.5, -1]);
    await assert.rejects(opened.read('c'), { code: 'CHECKPOINT_INVALID', message: /"c"/ });
    await opened.close();
    assert.deepEqual([...toFloat32((await readSafetensors(path)).get('a') ?? assert.fail())], [1, 2, 3, 4]);
  });

  it('replaces a file atomically and keeps a symbolic link', async () => {
    const path = join(dir, 'model.safetensors');
    const link = join(dir, 'link.safetensors');
    await writeFile(path, 'old', { mode: 0o640 });
    await symlink(path, link);
    await writeSafetensors(link, new Map([['a', fromFloat32(new Float32Array(3), [3])]]));
    assert.equal((await readSafetensors(path)).size, 1);
    assert.equal((await stat(path)).mode & 0o777, 0o640);
    assert.deepEqual((await readdir(dir)).sort(), ['link.safetensors', 'model.safetensors']);
  });

  it('a failed write leaves the old file and no rest', async () => {
    const path = join(dir, 'model.safetensors');
    await writeFile(path, 'old');
    const wrong = new Map([['a', { dtype: 'F32', shape: [3], data: new Uint8Array(4) } as TensorData]]);
    await assert.rejects(writeSafetensors(path, wrong), { code: 'INVALID_SHAPE' });
    assert.equal(await readFile(path, 'utf8'), 'old');
    assert.deepEqual(await readdir(dir), ['model.safetensors']);
  });

  it('unwritable paths and full disks are named with their cure', async function () {
    const tensors = new Map([['a', fromFloat32(new Float32Array(4), [4])]]);
    await assert.rejects(writeSafetensors(join(dir, 'no', 'x'), tensors), { code: 'IO_ERROR', cure: /folder/ });
    await assert.rejects(writeSafetensors(dir, tensors), { code: 'IO_ERROR', cure: /folder/ });
    const full = await stat('/dev/full').catch(() => undefined);
    if (!full?.isCharacterDevice()) this.skip();
    await assert.rejects(writeSafetensors('/dev/full', tensors), { code: 'DISK_FULL', value: '/dev/full' });
  });

  it('every kind of broken file is refused as CHECKPOINT_INVALID with its name', async () => {
    const deep = `{"__metadata__":${'{"a":'.repeat(100_000)}`;
    const cases: [string, Uint8Array, RegExp][] = [
      ['empty', new Uint8Array(0), /only 0 bytes/],
      ['short', new Uint8Array(5), /only 5 bytes/],
      ['huge header', Buffer.alloc(16, 0xff), /header claims/],
      [
        'header beyond the file',
        Buffer.concat([Buffer.from([200, 0, 0, 0, 0, 0, 0, 0]), Buffer.from('{}')]),
        /header claims/,
      ],
      ['not JSON', file('{"a":', 0), /not JSON/],
      ['deep', file(deep, 0), /nested/],
      ['not an object', file('[1]', 0), /no JSON object/],
      ['null', file('null', 0), /no JSON object/],
      ['not UTF-8', Buffer.concat([Buffer.from([2, 0, 0, 0, 0, 0, 0, 0]), Buffer.from([0xff, 0xfe])]), /UTF-8/],
      [
        'duplicate',
        file(`{"a":${JSON.stringify(f32(0, 4))},"\\u0061":${JSON.stringify(f32(4, 8))}}`, 8),
        /"a" occurs twice/,
      ],
      ['unknown type', file({ a: { ...f32(0, 4), dtype: 'toString' } }, 4), /unknown type/],
      ['null entry', file({ a: null }, 0), /unknown type/],
      ['negative extent', file({ a: f32(0, 4, [-1]) }, 4), /no valid shape/],
      ['fractional extent', file({ a: f32(0, 4, [0.5]) }, 4), /no valid shape/],
      ['overflow', file({ a: f32(0, 4, [2 ** 40, 2 ** 40]) }, 4), /spans/],
      ['wrong bytes', file({ a: f32(0, 8, [1]) }, 8), /spans 8 bytes/],
      ['reversed', file({ a: { dtype: 'F32', shape: [1], data_offsets: [4, 0] } }, 8), /spans/],
      ['no offsets', file({ a: { dtype: 'F32', shape: [1] } }, 4), /data_offsets/],
      ['overlap', file({ a: f32(0, 8), b: f32(4, 12) }, 12), /overlaps/],
      ['gap', file({ a: f32(0, 4), b: f32(8, 12) }, 12), /gap/],
      ['truncated', file({ a: f32(0, 40) }, 8), /truncated/],
      ['tail', file({ a: f32(0, 4) }, 8), /follow/],
      ['metadata', file({ __metadata__: { a: 1 } }, 0), /__metadata__/],
    ];
    for (const [name, bytes, message] of cases) {
      assert.throws(
        () => parseSafetensors(bytes, `${name}.safetensors`),
        { code: 'CHECKPOINT_INVALID', message },
        name,
      );
      const path = join(dir, `${name}.safetensors`);
      await writeFile(path, bytes);
      await assert.rejects(SafetensorsFile.open(path), { code: 'CHECKPOINT_INVALID', message: new RegExp(name) }, name);
    }
    await assert.rejects(SafetensorsFile.open(join(dir, 'absent')), { code: 'MODEL_NOT_FOUND' });
    await assert.rejects(SafetensorsFile.open(dir), { code: 'IO_ERROR' });
  });

  it('arbitrary bytes never crash the parser', () => {
    const tensors = new Map([['a', fromFloat32(Float32Array.of(1, 2), [2])]]);
    const good = Buffer.from(serializeSafetensors(tensors));
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.nat(255), fc.nat(good.length), (at, byte, length) => {
        const bytes = Buffer.from(good.subarray(0, length));
        if (at < length) bytes[at] = byte;
        try {
          parseSafetensors(bytes);
        } catch (error) {
          assert.equal((error as { code?: string }).code, 'CHECKPOINT_INVALID');
        }
      }),
      { numRuns: 500 },
    );
  });

  it('reads shards through their index and refuses a foreign one', async () => {
    await writeSafetensors(join(dir, 's1.safetensors'), new Map([['a', fromFloat32(Float32Array.of(1), [1])]]));
    await writeSafetensors(join(dir, 's2.safetensors'), new Map([['b', fromFloat32(Float32Array.of(2), [1])]]));
    const index = join(dir, 'model.safetensors.index.json');
    const write = (value: unknown) => writeFile(index, JSON.stringify(value));
    await write({ weight_map: { a: 's1.safetensors', b: 's2.safetensors' } });
    const source = await openTensors(index);
    assert.deepEqual([...source.tensors.keys()], ['a', 'b']);
    assert.deepEqual([...toFloat64(await source.read('b'))], [2]);
    await source.close();
    for (const weight_map of [{ a: 's2.safetensors' }, { a: '../s1.safetensors' }, { a: 7 }, null]) {
      await write({ weight_map });
      await assert.rejects(openTensors(index), { code: 'CHECKPOINT_INVALID' }, JSON.stringify(weight_map));
    }
    await write({ weight_map: { a: 's3.safetensors' } });
    await assert.rejects(openTensors(index), { code: 'MODEL_NOT_FOUND', message: /s3/ });
    await writeFile(index, '{');
    await assert.rejects(openTensors(index), { code: 'CHECKPOINT_INVALID', message: /JSON/ });
  });
});
