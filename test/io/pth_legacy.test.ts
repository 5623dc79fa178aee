/** The form that PyTorch's files had before version 1.6. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { InfinityError } from '../../lib/errors.js';
import { type ByteSource, bytesInMemory } from '../../lib/io/byte_source.js';
import { openTensors } from '../../lib/io/open_tensors.js';
import { PthFile, parsePth } from '../../lib/io/pth.js';
import { SafetensorsFile } from '../../lib/io/safetensors.js';
import { fromFloat32, toFloat64 } from '../../lib/io/tensor_data.js';
import { readAll } from '../../lib/io/tensor_source.js';
import { goldenPath, requireGolden } from '../support/goldens.js';
import {
  LEGACY_MAGIC,
  type LegacyStorage,
  legacyHead,
  legacyTorchFile,
  legacyTorchState,
  type Pickled,
  pickled as p,
  pickleOf,
} from '../support/torch_file.js';

const bytesOf = (view: ArrayBufferView): Buffer => Buffer.from(view.buffer, view.byteOffset, view.byteLength);
const counting = (n: number): Buffer => bytesOf(Float32Array.from({ length: n }, (_, i) => i));
const stored = (key: string, n: number): LegacyStorage => ({ key, count: n, data: counting(n) });
const floats = (key: string, n: number, view: Pickled = p.none): Pickled =>
  p.storage('FloatStorage', key, p.int(n), view);
const whole = (key: string, n: number): Pickled => p.tensor(floats(key, n), 0, [n], [1]);
const values = async (source: PthFile, name: string): Promise<number[]> => [...toFloat64(await source.read(name))];

/** A string as Python 2 pickles it: up to 255 bytes, or longer. */
function python2(text: string): Pickled {
  const long = Buffer.alloc(5, 'T');
  long.writeUInt32LE(text.length, 1);
  return Buffer.concat([text.length < 256 ? Buffer.from([0x55, text.length]) : long, Buffer.from(text)]);
}

async function refused(bytes: Uint8Array): Promise<InfinityError> {
  const error = await parsePth(bytes, 'test.pth')
    .then(readAll)
    .catch((e: unknown) => e);
  assert.ok(error instanceof InfinityError, `${bytes.length} bytes: ${String(error)}`);
  assert.ok(error.cure && error.message.includes('test.pth') && error.value !== undefined);
  return error;
}

describe('PyTorch files of the form before 1.6', () => {
  it("PyTorch's own: names, shapes and values", async function () {
    const file = await PthFile.open(requireGolden(this, 'tokenizer/pth/legacy_nonzip.pth'));
    const [first, last] = ['encoder.conv_in.conv.bias', 'decoder.conv_out.conv.bias'];
    assert.deepEqual([...file.tensors.keys()], [`vae.${first}`, `vae.${last}`]);
    const bias = await values(file, `vae.${last}`);
    assert.deepEqual(bias, [0.22954177856445312, 0.09048926830291748, -0.16520476341247559]);
    const complete = goldenPath('tokenizer/pth/tiny_vae.expected.safetensors');
    if (complete) {
      const expected = await SafetensorsFile.open(complete);
      for (const name of [first, last])
        assert.deepEqual(await values(file, `vae.${name}`), [...toFloat64(await expected.read(name))]);
      await expected.close();
    }
    await file.close();
  });

  it('read every storage type', async () => {
    const cases: [string, string, ArrayBufferView, number[]][] = [
      ['DoubleStorage', 'F64', Float64Array.of(0.1, -2), [0.1, -2]],
      ['FloatStorage', 'F32', Float32Array.of(0.5, -2), [0.5, -2]],
      ['HalfStorage', 'F16', Uint16Array.of(0x3c00, 0xc000), [1, -2]],
      ['BFloat16Storage', 'BF16', Uint16Array.of(0x3f80, 0xc000), [1, -2]],
      ['LongStorage', 'I64', BigInt64Array.of(5n, -3n), [5, -3]],
      ['IntStorage', 'I32', Int32Array.of(5, -3), [5, -3]],
      ['ByteStorage', 'U8', Uint8Array.of(5, 250), [5, 250]],
      ['BoolStorage', 'BOOL', Uint8Array.of(0, 1), [0, 1]],
    ];
    const of = (type: string): Pickled => p.tensor(p.storage(type, type, p.int(2), p.none), 0, [2], [1]);
    const file = await parsePth(
      legacyTorchFile(
        p.dict(Object.fromEntries(cases.map(([type]) => [type, of(type)]))),
        // In another order than that of the tensors: the list of keys decides.
        cases.map(([key, , data]) => ({ key, count: 2, data: bytesOf(data) })).reverse(),
      ),
    );
    for (const [type, dtype, , expected] of cases) {
      assert.equal(file.tensors.get(type)?.dtype, dtype);
      assert.deepEqual(await values(file, type), expected, type);
    }
  });

  it('read strided and shared views, parts of storages, and all that a training checkpoint nests', async () => {
    const of = (offset: number, shape: number[], strides: number[]) =>
      p.tensor(floats('7', 24), offset, shape, strides);
    const part = (begin: number, n: number): Pickled =>
      floats('7', 24, p.tuple(p.string(`view ${begin}`), p.int(begin), p.int(n)));
    const tree = p.dict({
      epoch: p.int(3),
      state_dict: p.build(
        p.orderedDict({
          transposed: of(0, [4, 3], [1, 4]),
          channelsLast: of(0, [1, 2, 2, 3], [12, 1, 6, 2]),
          part: p.tensor(part(10, 6), 2, [2, 2], [2, 1]),
          scalar: of(23, [], []),
          empty: p.tensor(floats('8', 0), 0, [0], [1]),
          parameter: p.call(
            p.global('torch._utils', '_rebuild_parameter'),
            of(4, [2], [1]),
            p.bool(true),
            p.orderedDict(),
          ),
        }),
        p.dict({ _metadata: p.orderedDict() }),
      ),
    });
    const file = await parsePth(legacyTorchFile(tree, [stored('7', 24), stored('8', 0)]));
    const read = (name: string): Promise<number[]> => values(file, `state_dict.${name}`);
    assert.deepEqual(await read('transposed'), [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
    assert.deepEqual(await read('channelsLast'), [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]);
    assert.deepEqual(await read('part'), [12, 13, 14, 15]);
    assert.deepEqual(await read('scalar'), [23]);
    assert.deepEqual(await read('empty'), []);
    assert.deepEqual(await read('parameter'), [4, 5]);
    assert.equal((file.tree as Map<string, unknown>).get('epoch'), 3);
  });

  it('read what Python 2 wrote: its strings, dictionaries made of pairs, tensors without hooks', async () => {
    const long = 'x'.repeat(300);
    const pair = (key: string, offset: number): Pickled =>
      p.list(
        python2(key),
        p.call(
          p.global('torch._utils', '_rebuild_tensor'),
          floats('7', 4),
          p.int(offset),
          p.tuple(p.int(2)),
          p.tuple(p.int(1)),
        ),
      );
    const tree = p.call(p.global('collections', 'OrderedDict'), p.list(pair('a', 0), pair(long, 2)));
    const file = await parsePth(legacyTorchFile(tree, [stored('7', 4)], p.list(python2('7'))));
    assert.deepEqual(await values(file, 'a'), [0, 1]);
    assert.deepEqual(await values(file, long), [2, 3]);
  });

  it('are known by the magic number in every protocol, framed as well', async () => {
    const rest = legacyTorchFile(p.dict({ a: whole('7', 2) }), [stored('7', 2)]).subarray(LEGACY_MAGIC.length);
    const number = LEGACY_MAGIC.subarray(2);
    const frame = Buffer.from([0x95, number.length, 0, 0, 0, 0, 0, 0, 0]);
    for (const beginning of [Buffer.from([0x80, 3]), Buffer.from([0x80, 4]), Buffer.from([0x80, 4, ...frame])])
      assert.deepEqual(await values(await parsePth(Buffer.concat([beginning, number, rest])), 'a'), [0, 1]);
  });

  it('of many tensors are read by position: the pickles, and of a storage what the view spans', async () => {
    const names = Array.from({ length: 3000 }, (_, i) => `blocks.${i}.attention.weight`);
    const tree = p.orderedDict({
      ...Object.fromEntries(names.map((name, i) => [name, p.tensor(floats('7', 200_000), i, [1], [1])])),
      slice: p.tensor(floats('7', 200_000), 500, [4], [2]),
    });
    const bytes = legacyTorchFile(tree, [stored('7', 200_000)]);
    const described = bytes.length - 800_000;
    assert.ok(described > 1 << 17, 'longer than what is read at first');
    const memory = bytesInMemory(bytes, 'test.pth');
    let [most, sum] = [0, 0];
    const source: ByteSource = {
      ...memory,
      read: (begin, length) => {
        [most, sum] = [Math.max(most, length), sum + length];
        return memory.read(begin, length);
      },
    };
    const file = await PthFile.from(source);
    // Steps of four: the last attempt is at most four times as long as it need be.
    assert.ok(most <= 4 * described && sum <= 6 * described, `${most} and ${sum} of ${described}`);
    most = 0;
    assert.deepEqual(await values(file, 'slice'), [500, 502, 504, 506]);
    assert.deepEqual(await values(file, names[2999]!), [2999]);
    assert.equal(most, 28);
  });

  const good = legacyTorchFile(p.dict({ a: p.tensor(floats('7', 24), 0, [4, 3], [1, 4]), b: p.list(whole('8', 3)) }), [
    stored('7', 24),
    stored('8', 3),
  ]);

  it('are refused wherever they are cut off', async () => {
    await readAll(await parsePth(good));
    for (let length = 0; length < good.length; length++)
      assert.equal((await refused(good.subarray(0, length))).code, 'CHECKPOINT_INVALID');
    const error = await refused(good.subarray(0, -1));
    assert.match(error.message, /cut off in its storage 8 of 3 elements of F32/);
  });

  const one = [stored('7', 24)];
  const counts = (count: number): LegacyStorage[] => [{ ...one[0]!, count }];
  const bad: [string, Buffer, RegExp][] = [
    ['a storage that counts fewer elements', legacyTorchFile(whole('7', 24), counts(23)), /counts 23 .* 24/],
    ['a storage that counts more elements', legacyTorchFile(whole('7', 24), counts(2 ** 40)), /counts 1099511627776/],
    ['a count below zero', negative(legacyTorchFile(whole('7', 24), one)), /counts -1 /],
    ['a description of more elements than there are', legacyTorchFile(whole('7', 25), one), /cut off in its storage 7/],
    ['a storage of absurd size', legacyTorchFile(p.tensor(huge(), 0, [1], [1]), one), /cut off/],
    ['a storage that is not listed', legacyTorchFile(whole('7', 24), one, p.list()), /storage 7 is missing/],
    ['a storage that is not described', legacyTorchFile(p.none, one), /names "7"/],
    ['a storage that is listed twice', legacyTorchFile(whole('7', 24), [...one, ...one]), /storage 7 is listed twice/],
    ['a list of storages that is none', legacyTorchFile(whole('7', 24), one, p.int(3)), /no list/],
    ['a key that is none', legacyTorchFile(whole('7', 24), one, p.list(p.int(7))), /no key/],
    ['a list of storages that holds itself', legacyTorchFile(p.none, [], p.put(0, p.list(p.get(0)))), /memo|no key/],
    ['something after the last storage', Buffer.concat([legacyTorchFile(whole('7', 24), one), good]), /bytes follow/],
    ['a tensor beyond its storage', legacyTorchFile(p.tensor(floats('7', 24), 0, [25], [1]), one), /reaches/],
    ['a tensor beyond its part', legacyTorchFile(p.tensor(floats('7', 24, view(4, 6)), 4, [3], [1]), one), /reaches/],
    ['a part beyond its storage', legacyTorchFile(p.tensor(floats('7', 24, view(20, 5)), 0, [1], [1]), one), /view/],
    ['a part that begins before', legacyTorchFile(p.tensor(floats('7', 24, view(-1, 5)), 0, [1], [1]), one), /view/],
    ['a part that is none', legacyTorchFile(p.tensor(floats('7', 24, p.int(3)), 0, [1], [1]), one), /view/],
    [
      'a dictionary of what are no pairs',
      legacyTorchFile(p.call(p.global('collections', 'OrderedDict'), p.list(p.int(1))), []),
      /OrderedDict/,
    ],
    [
      'a dictionary with a list for a key',
      legacyTorchFile(p.call(p.global('collections', 'OrderedDict'), p.list(p.list(p.list(), p.int(1)))), []),
      /OrderedDict/,
    ],
    ['another version', Buffer.concat([legacyHead(1000), pickleOf(p.none), pickleOf(p.list())]), /begin as/],
    ['another number', Buffer.concat([pickleOf(p.long(1, 2, 3)), pickleOf(p.int(1001))]), /begins neither/],
    ['the number alone', LEGACY_MAGIC, /cut off/],
    ['a function to call', legacyTorchFile(p.call(p.global('posix', 'getcwd')), []), /UNSAFE.*posix\.getcwd/],
    ['a saved module', legacyTorchFile(p.global('torchvision.models.vgg', 'VGG'), []), /UNSAFE.*VGG/],
    ['a function among the keys', legacyTorchFile(p.none, [], p.call(p.global('os', 'system'))), /UNSAFE.*os\.system/],
  ];
  for (const [title, bytes, message] of bad) {
    it(`refuse ${title}`, async () => {
      const { code, message: text } = await refused(bytes);
      assert.match(`${code} ${text}`, message);
    });
  }

  it('survive altered bytes', async () => {
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

  it('open from a disk like any other file of tensors', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'pth-legacy-'));
    const path = join(dir, 'vgg.pth');
    const state = new Map([['lin0.model.1.weight', fromFloat32(Float32Array.of(1, 2, 3), [1, 3, 1, 1])]]);
    await writeFile(path, legacyTorchState(state));
    assert.ok((await readFile(path)).length < 2000);
    const source = await openTensors(path);
    assert.deepEqual([...(await readAll(source))], [...state]);
    await source.close();
    await rm(dir, { recursive: true });
  });
});

function view(begin: number, elements: number): Pickled {
  return p.tuple(p.string('v'), p.int(begin), p.int(elements));
}

function huge(): Pickled {
  return p.storage('FloatStorage', '7', p.long(0, 0, 0, 0, 0, 0, 0x10), p.none);
}

/** With a count of -1 before the values of its only storage of 24 floats. */
function negative(file: Buffer): Buffer {
  file.writeBigInt64LE(-1n, file.length - 24 * 4 - 8);
  return file;
}
