import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { InfinityError } from '../../lib/errors.js';
import { type ByteSource, bytesInMemory } from '../../lib/io/byte_source.js';
import { openTensors } from '../../lib/io/open_tensors.js';
import { PthFile, parsePth } from '../../lib/io/pth.js';
import { writeSafetensors } from '../../lib/io/safetensors.js';
import { fromFloat32, toFloat64 } from '../../lib/io/tensor_data.js';
import { readAll } from '../../lib/io/tensor_source.js';
import { type Pickled, pickled as p, pickleOf, torchFile, zip } from '../support/torch_file.js';

const bytesOf = (view: ArrayBufferView): Buffer => Buffer.from(view.buffer, view.byteOffset, view.byteLength);
const counting = (n: number): Buffer => bytesOf(Float32Array.from({ length: n }, (_, i) => i));
const floats = (key: string, n: number): Pickled => p.storage('FloatStorage', key, p.int(n));
const whole = (key: string, n: number): Pickled => p.tensor(floats(key, n), 0, [n], [1]);

async function values(source: PthFile, name: string): Promise<number[]> {
  return [...toFloat64(await source.read(name))];
}

describe('PyTorch files', () => {
  it('reads every storage type', async () => {
    const cases: [string, string, ArrayBufferView, number[]][] = [
      ['DoubleStorage', 'F64', Float64Array.of(0.1, -2), [0.1, -2]],
      ['FloatStorage', 'F32', Float32Array.of(0.5, -2), [0.5, -2]],
      ['HalfStorage', 'F16', Uint16Array.of(0x3c00, 0xc000), [1, -2]],
      ['BFloat16Storage', 'BF16', Uint16Array.of(0x3f80, 0xc000), [1, -2]],
      ['LongStorage', 'I64', BigInt64Array.of(5n, -3n), [5, -3]],
      ['IntStorage', 'I32', Int32Array.of(5, -3), [5, -3]],
      ['ShortStorage', 'I16', Int16Array.of(5, -3), [5, -3]],
      ['CharStorage', 'I8', Int8Array.of(5, -3), [5, -3]],
      ['ByteStorage', 'U8', Uint8Array.of(5, 250), [5, 250]],
      ['BoolStorage', 'BOOL', Uint8Array.of(0, 1), [0, 1]],
    ];
    const tensors = cases.map(([type]) => [type, p.tensor(p.storage(type, type, p.int(2)), 0, [2], [1])]);
    const storages = cases.map(([type, , data]) => [type, bytesOf(data)]);
    const file = await parsePth(torchFile(p.dict(Object.fromEntries(tensors)), Object.fromEntries(storages)));
    for (const [type, dtype, , expected] of cases) {
      assert.equal(file.tensors.get(type)?.dtype, dtype);
      assert.deepEqual(await values(file, type), expected, type);
    }
  });

  it('reads strided, shifted, shared, empty and zero-dimensional views', async () => {
    const of = (offset: number, shape: number[], strides: number[]) =>
      p.tensor(floats('0', 24), offset, shape, strides);
    const tree = p.orderedDict({
      whole: of(0, [2, 3, 4], [12, 4, 1]),
      transposed: of(0, [4, 3], [1, 4]),
      channelsLast: of(0, [1, 2, 2, 3], [12, 1, 6, 2]),
      slice: of(20, [3], [1]),
      everyOther: of(1, [3], [2]),
      repeated: of(7, [2, 2], [0, 0]),
      scalar: of(23, [], []),
      empty: of(0, [0, 5], [5, 1]),
      oneRow: of(4, [1, 2], [99, 1]),
    });
    const file = await parsePth(torchFile(tree, { 0: counting(24) }));
    assert.deepEqual(
      await values(file, 'whole'),
      Array.from({ length: 24 }, (_, i) => i),
    );
    assert.deepEqual(await values(file, 'transposed'), [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
    assert.deepEqual(await values(file, 'channelsLast'), [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]);
    assert.deepEqual(await values(file, 'slice'), [20, 21, 22]);
    assert.deepEqual(await values(file, 'everyOther'), [1, 3, 5]);
    assert.deepEqual(await values(file, 'repeated'), [7, 7, 7, 7]);
    assert.deepEqual(await values(file, 'scalar'), [23]);
    assert.deepEqual(await values(file, 'empty'), []);
    assert.deepEqual(await values(file, 'oneRow'), [4, 5]);
    assert.deepEqual(file.tensors.get('channelsLast')?.shape, [1, 2, 2, 3]);
  });

  it('gathers elements of every width', async () => {
    const transposed = (type: string, key: string) => p.tensor(p.storage(type, key, p.int(6)), 0, [3, 2], [1, 3]);
    const file = await parsePth(
      torchFile(
        p.dict({
          d: transposed('DoubleStorage', 'd'),
          h: transposed('ShortStorage', 'h'),
          b: transposed('ByteStorage', 'b'),
        }),
        {
          d: bytesOf(Float64Array.of(0, 1, 2, 3, 4, 5)),
          h: bytesOf(Int16Array.of(0, 1, 2, 3, 4, 5)),
          b: Uint8Array.of(0, 1, 2, 3, 4, 5),
        },
      ),
    );
    for (const name of ['d', 'h', 'b']) assert.deepEqual(await values(file, name), [0, 3, 1, 4, 2, 5], name);
  });

  it('names nested tensors by their path and keeps everything else in the tree', async () => {
    const parameter = p.call(
      p.global('torch._utils', '_rebuild_parameter'),
      whole('0', 2),
      p.bool(true),
      p.orderedDict(),
    );
    const tree = p.dict({
      epoch: p.int(3),
      arch: p.string('infinity'),
      trainer: p.dict({
        gpt: p.build(p.orderedDict({ 'head.weight': parameter }), p.dict({ _metadata: p.orderedDict() })),
        losses: p.list(p.float(0.5), whole('1', 1)),
      }),
      args: p.build(
        p.call(p.global('argparse', 'Namespace')),
        p.dict({ pn: p.string('1M'), dtype: p.global('torch', 'bfloat16') }),
      ),
    });
    const file = await parsePth(torchFile(tree, { 0: counting(2), 1: counting(1) }));
    assert.deepEqual([...file.tensors.keys()], ['trainer.gpt.head.weight', 'trainer.losses.1']);
    const top = file.tree as Map<string, Map<string, unknown>>;
    assert.deepEqual([top.get('epoch'), top.get('arch'), top.get('args')?.get('pn')], [3, 'infinity', '1M']);
    assert.equal((top.get('trainer')!.get('losses') as unknown[])[0], 0.5);
    await assert.rejects(file.read('trainer'), { code: 'CHECKPOINT_INVALID', message: /"trainer"/ });
  });

  it('reads of a storage no more than the view spans, and verifies its checksum', async () => {
    const tree = p.dict({ slice: p.tensor(floats('0', 1000), 500, [4], [2]), other: whole('1', 100_000) });
    const storages = { 0: counting(1000), 1: counting(100_000) };
    const memory = bytesInMemory(torchFile(tree, storages), 'test.pth');
    let most = 0;
    const source: ByteSource = {
      ...memory,
      read: (begin, length) => {
        most = Math.max(most, length);
        return memory.read(begin, length);
      },
    };
    const file = await PthFile.from(source);
    assert.deepEqual(await values(file, 'slice'), [500, 502, 504, 506]);
    assert.ok(most <= 4000, `${most} bytes`);
    const damaged = torchFile(tree, storages);
    damaged[damaged.indexOf(counting(1000)) + 3996]! ^= 1;
    const read = (await parsePth(damaged)).read('slice');
    await assert.rejects(read, { code: 'CHECKPOINT_INVALID', message: /checksum/ });
  });

  const one = { 0: counting(24) };
  const bad: [string, Buffer, RegExp][] = [
    ['a tensor beyond its storage', torchFile(p.tensor(floats('0', 24), 0, [25], [1]), one), /reaches/],
    ['an offset beyond its storage', torchFile(p.tensor(floats('0', 24), 24, [1], [1]), one), /reaches/],
    ['a stride beyond its storage', torchFile(p.tensor(floats('0', 24), 0, [2], [24]), one), /reaches/],
    ['a negative offset', torchFile(p.tensor(floats('0', 24), -1, [1], [1]), one), /offset/],
    ['a negative extent', torchFile(p.tensor(floats('0', 24), 0, [-1], [1]), one), /shape/],
    ['a negative stride', torchFile(p.tensor(floats('0', 24), 3, [2], [-1]), one), /strides/],
    ['another number of strides', torchFile(p.tensor(floats('0', 24), 0, [2], [1, 1]), one), /strides/],
    ['too many axes', torchFile(p.tensor(floats('0', 24), 0, Array(40).fill(1), Array(40).fill(1)), one), /shape/],
    [
      'extents whose product overflows',
      torchFile(p.tensor(floats('0', 24), 0, Array(16).fill(2 ** 30), Array(16).fill(0)), one),
      /overlap/,
    ],
    [
      'views that claim far more than the file',
      torchFile(p.tensor(floats('0', 24), 0, [1 << 20], [0]), one),
      /overlap/,
    ],
    ['a record shorter than its storage', torchFile(whole('0', 25), one), /96 bytes for 25/],
    [
      'a storage of absurd size',
      torchFile(p.tensor(p.storage('FloatStorage', '0', p.long(0, 0, 0, 0, 0, 0, 0x10)), 0, [1], [1]), one),
      /bytes for/,
    ],
    ['a storage that is not there', torchFile(whole('1', 24), one), /storage 1 is missing/],
    ['a storage outside', torchFile(whole('../../0', 24), one), /missing/],
    [
      'a storage of two types',
      torchFile(p.list(whole('0', 24), p.tensor(p.storage('IntStorage', '0', p.int(24)), 0, [1], [1])), one),
      /described twice/,
    ],
    ['a tensor without a storage', torchFile(p.tensor(p.int(3), 0, [1], [1]), one), /no storage/],
    ['a storage of a type that is none', torchFile(p.list(p.storage('OrderedDict', '0', p.int(1))), one), /UNSAFE/],
    [
      'two tensors of one name',
      torchFile(p.dict({ 'a.b': whole('0', 24), a: p.dict({ b: whole('0', 24) }) }), one),
      /two of its tensors/,
    ],
    [
      'a dictionary within itself',
      torchFile(Buffer.from('}q\0(X\x01\0\0\0ah\0u', 'latin1'), {}),
      /deeper|more objects/,
    ],
    [
      'a parameter without a tensor',
      torchFile(p.call(p.global('torch._utils', '_rebuild_parameter'), p.none), {}),
      /no tensor/,
    ],
    [
      'another byte order',
      torchFile(whole('0', 24), one, [{ name: 'archive/byteorder', data: Buffer.from('big') }]),
      /little-endian/,
    ],
    [
      'records in two folders',
      torchFile(whole('0', 24), one, [{ name: 'other/x', data: Buffer.from('x') }]),
      /no folder/,
    ],
    ['no pickle', zip([{ name: 'archive/version', data: Buffer.from('3') }]), /data\.pkl/],
    ['no records', zip([]), /empty/],
    ['a Git LFS pointer', Buffer.from('version https://git-lfs.github.com/spec/v1\n'), /LFS/],
    ['nothing', Buffer.alloc(0), /zip/],
    ['a web page', Buffer.from('<!doctype html><title>Not found</title>'), /zip/],
  ];
  for (const [title, bytes, message] of bad) {
    it(`refuses ${title}`, async () => {
      const error = await parsePth(bytes, 'test.pth').catch((e: unknown) => e);
      assert.ok(error instanceof InfinityError, 'it was read');
      assert.match(`${error.code} ${error.message}`, message);
      assert.ok(error.cure && error.message.includes('test.pth'));
      assert.match(error.code, /^(CHECKPOINT_INVALID|UNSAFE_PICKLE)$/);
    });
  }

  it('refuses dictionaries that contain one another twice at every level', async () => {
    let tree = p.put(0, p.dict({ w: whole('0', 1) }));
    for (let level = 1; level < 60; level++) tree = p.put(level, p.dict({ a: tree, b: p.get(level - 1) }));
    await assert.rejects(parsePth(torchFile(tree, { 0: counting(1) })), { code: 'CHECKPOINT_INVALID' });
  });

  it('never calls what a hostile file asks for', async () => {
    const evil = p.call(p.global('posix', 'getcwd'));
    const tree = p.orderedDict({ weight: whole('0', 24), other: evil });
    await assert.rejects(parsePth(torchFile(tree, one)), { code: 'UNSAFE_PICKLE', fields: { global: 'posix.getcwd' } });
  });

  it('survives altered bytes', async () => {
    const good = torchFile(p.dict({ a: p.tensor(floats('0', 24), 0, [4, 3], [1, 4]), b: p.list(whole('1', 3)) }), {
      ...one,
      1: counting(3),
    });
    await fc.assert(
      fc.asyncProperty(fc.nat(good.length - 1), fc.nat(255), async (at, byte) => {
        const bytes = Buffer.from(good);
        bytes[at] = byte;
        try {
          await readAll(await parsePth(bytes));
        } catch (error) {
          assert.ok(
            error instanceof InfinityError && /^(CHECKPOINT_INVALID|UNSAFE_PICKLE)$/.test(error.code),
            String(error),
          );
        }
      }),
      { numRuns: 1000 },
    );
  });

  describe('on disk', () => {
    let dir: string;
    beforeEach(async () => {
      dir = await mkdtemp(join(tmpdir(), 'pth-'));
    });
    afterEach(() => rm(dir, { recursive: true }));

    it('open like any other file of tensors, alone and as shards beside other kinds', async () => {
      await writeFile(join(dir, 'one.bin'), torchFile(p.dict({ a: whole('0', 2) }), { 0: counting(2) }));
      await writeSafetensors(join(dir, 'two.safetensors'), new Map([['b', fromFloat32(Float32Array.of(7), [1])]]));
      const index = join(dir, 'pytorch_model.bin.index.json');
      await writeFile(index, JSON.stringify({ weight_map: { a: 'one.bin', b: 'two.safetensors' } }));
      for (const [path, names] of [
        [join(dir, 'one.bin'), ['a']],
        [index, ['a', 'b']],
      ] as const) {
        const source = await openTensors(path);
        assert.deepEqual([...source.tensors.keys()], names);
        assert.deepEqual([...toFloat64(await source.read('a'))], [0, 1]);
        await source.close();
      }
    });

    it('large ones are read in parts', async () => {
      const n = 9 << 20;
      const path = join(dir, 'large.pth');
      await writeFile(path, torchFile(p.dict({ last: p.tensor(floats('0', n), n - 3, [3], [1]) }), { 0: counting(n) }));
      const file = await PthFile.open(path);
      assert.deepEqual(await values(file, 'last'), [n - 3, n - 2, n - 1].map(Math.fround));
      await file.close();
    });

    it('what is not there or of another kind is named', async () => {
      await assert.rejects(openTensors(join(dir, 'none.pth')), { code: 'MODEL_NOT_FOUND', message: /none\.pth/ });
      await writeFile(join(dir, 'raw.pt'), pickleOf(p.none));
      await assert.rejects(openTensors(join(dir, 'raw.pt')), { code: 'CHECKPOINT_INVALID', message: /raw\.pt/ });
      await writeFile(join(dir, 'x.json'), JSON.stringify({ weight_map: { a: '..' } }));
      await assert.rejects(openTensors(join(dir, 'x.json')), { code: 'CHECKPOINT_INVALID' });
    });
  });
});
