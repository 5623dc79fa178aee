import assert from 'node:assert/strict';
import { crc32 } from 'node:zlib';
import { parsePth } from '../../../lib/io/pth.js';
import { DTYPE_BYTES, elementCount } from '../../../lib/io/tensor_data.js';
import { mutateBytes } from '../mutate.js';
import type { FuzzTarget } from '../target.js';

type Entry = readonly [name: string, content: Uint8Array];

/** A header of a zip archive: fields of two and four bytes behind its signature. */
function record(signature: string, ...fields: readonly (readonly [bytes: 2 | 4, value: number])[]): Buffer {
  const bytes = fields.map(([width, value]) => {
    const field = Buffer.alloc(width);
    field.writeUIntLE(value, 0, width);
    return field;
  });
  return Buffer.concat([Buffer.from(`PK${signature}`, 'latin1'), ...bytes]);
}

/** A stored archive as torch.save lays it out, without its padding. */
function zip(entries: readonly Entry[]): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const [path, content] of entries) {
    const name = Buffer.from(`archive/${path}`);
    const sizes = [
      [4, crc32(content)],
      [4, content.byteLength],
      [4, content.byteLength],
      [2, name.byteLength],
      [2, 0],
    ] as const;
    const common = [[2, 0], [2, 0], [2, 0], [2, 0], [2, 0], ...sizes] as const;
    const local = Buffer.concat([record('\x03\x04', ...common), name, content]);
    directory.push(record('\x01\x02', [2, 0], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]), name);
    parts.push(local);
    at += local.byteLength;
  }
  const index = Buffer.concat(directory);
  const count = entries.length;
  const end = record('\x05\x06', [2, 0], [2, 0], [2, count], [2, count], [4, index.byteLength], [4, at], [2, 0]);
  return Buffer.concat([...parts, index, end]);
}

const op = (code: string): Buffer => Buffer.from(code, 'latin1');
const global = (module: string, name: string): Buffer => op(`c${module}\n${name}\n`);

function integer(value: number): Buffer {
  const bytes = Buffer.alloc(5);
  bytes.write('J');
  bytes.writeInt32LE(value, 1);
  return bytes;
}

function text(value: string): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(Buffer.byteLength(value));
  return Buffer.concat([op('X'), length, Buffer.from(value)]);
}

const tuple = (...items: readonly Buffer[]): Buffer => Buffer.concat([op('('), ...items, op('t')]);

interface Tensor {
  readonly key: string;
  readonly type: string;
  readonly elements: number;
  readonly offset: number;
  readonly shape: readonly number[];
  readonly stride: readonly number[];
}

function tensor({ key, type, elements, offset, shape, stride }: Tensor, view: readonly Buffer[] = []): Buffer {
  const storage = tuple(text('storage'), global('torch', type), text(key), text('cpu'), integer(elements), ...view);
  const hooks = Buffer.concat([global('collections', 'OrderedDict'), op(')R')]);
  const extents = [shape, stride].map((values) => tuple(...values.map(integer)));
  const args = tuple(Buffer.concat([storage, op('Q')]), integer(offset), ...extents, op('\x89'), hooks);
  return Buffer.concat([global('torch._utils', '_rebuild_tensor_v2'), args, op('R')]);
}

function dictionary(entries: readonly (readonly [string, Buffer])[]): Buffer {
  return Buffer.concat([op('}('), ...entries.flatMap(([key, value]) => [text(key), value]), op('u')]);
}

const pickle = (value: Buffer): Buffer => Buffer.concat([op('\x80\x02'), value, op('.')]);

const STORAGES: readonly Entry[] = [
  ['data/0', Buffer.alloc(48, 1)],
  ['data/1', Buffer.alloc(64, 2)],
];
const MATRIX: Tensor = { key: '0', type: 'FloatStorage', elements: 12, offset: 0, shape: [3, 4], stride: [4, 1] };
const VIEW: Tensor = { key: '1', type: 'BFloat16Storage', elements: 32, offset: 2, shape: [4, 3], stride: [1, 8] };

function pickles(): Buffer[] {
  const plain = dictionary([
    ['a.weight', tensor(MATRIX)],
    ['a.bias', tensor({ ...VIEW, shape: [], stride: [] })],
  ]);
  const nested = dictionary([
    ['epoch', integer(3)],
    [
      'trainer',
      dictionary([
        [
          'gpt_fsdp',
          dictionary([
            ['x', tensor(MATRIX)],
            ['y', tensor(VIEW)],
          ]),
        ],
      ]),
    ],
    ['args', tuple(text('d32'), op('N'), op('\x88'))],
  ]);
  return [plain, nested].map(pickle);
}

const file = (tree: Uint8Array): Buffer =>
  zip([['data.pkl', tree], ['byteorder', op('little')], ...STORAGES, ['version', op('3\n')]]);

const int64 = (value: number): Buffer => Buffer.from(BigInt64Array.of(BigInt(value)).buffer);

/** The form before PyTorch 1.6: pickles, then the storages behind the numbers of their elements. */
function legacyFile(): Buffer {
  const magic = Buffer.from('8a0a6cfc9c46f9206aa85019', 'hex');
  const part = tuple(text('v'), integer(8), integer(24));
  const tree = dictionary([
    ['a.weight', tensor(MATRIX, [op('N')])],
    ['b', tensor(VIEW, [part])],
  ]);
  const heads = [magic, integer(1001), dictionary([['little_endian', op('\x88')]]), tree, tuple(text('1'), text('0'))];
  const [first, second] = STORAGES.map(([, content]) => content);
  return Buffer.concat([...heads.map(pickle), int64(VIEW.elements), second!, int64(MATRIX.elements), first!]);
}

export const pth: FuzzTarget = {
  name: 'pth',
  seeds: () => [...pickles().map(file), legacyFile()],
  async read(bytes) {
    const source = await parsePth(bytes);
    let total = 0;
    for (const [name, { dtype, shape }] of source.tensors) {
      const read = await source.read(name);
      assert.deepEqual([read.dtype, read.shape], [dtype, shape]);
      assert.equal(read.data.byteLength, elementCount(shape) * DTYPE_BYTES[dtype]);
      total += read.data.byteLength;
    }
    assert.ok(total <= 8 * bytes.byteLength);
    await source.close();
  },
  /** The pickle alone, in a sound archive. */
  mutate: (random) => file(mutateBytes(random, random.pick(pickles()), pickles())),
};
