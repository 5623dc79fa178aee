/** PyTorch files put together by hand, right and wrong ones. */
import { crc32 } from 'node:zlib';

export interface ZipRecord {
  readonly name: string;
  readonly data: Uint8Array;
  /** What the archive says instead of the truth. */
  readonly lie?: Partial<Record<'crc' | 'size' | 'packed' | 'offset' | 'method' | 'flags', number>>;
  /** Bytes of padding in the local header, as torch aligns storages. */
  readonly padding?: number;
  /** Name in the local header. */
  readonly localName?: string;
}

export interface ZipOptions {
  readonly zip64?: boolean;
  readonly comment?: string;
  readonly count?: number;
}

function fields(layout: readonly (readonly [bytes: 2 | 4 | 8, value: number])[]): Buffer {
  return Buffer.concat(
    layout.map(([bytes, value]) => {
      const field = Buffer.alloc(8);
      field.writeBigUInt64LE(BigInt(value));
      return field.subarray(0, bytes);
    }),
  );
}

const ALL_ONES = 0xffffffff;

export function zip(records: readonly ZipRecord[], { zip64 = false, comment = '', count }: ZipOptions = {}): Buffer {
  const contents: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const { name, data, lie = {}, padding = 0, localName = name } of records) {
    const { crc = crc32(data), size = data.length, packed = size, offset = at, method = 0, flags = 0 } = lie;
    const common = [
      [2, 45],
      [2, flags],
      [2, method],
      [4, 0],
      [4, crc],
    ] as const;
    const short = (n: number): number => (zip64 ? ALL_ONES : n);
    const local = Buffer.concat([
      fields([[4, 0x04034b50], ...common, [4, short(packed)], [4, short(size)], [2, localName.length], [2, padding]]),
      Buffer.from(localName),
      Buffer.alloc(padding),
      data,
    ]);
    const extra = zip64
      ? fields([
          [2, 0x4246],
          [2, 2],
          [2, 7],
          [2, 1],
          [2, 24],
          [8, size],
          [8, packed],
          [8, offset],
        ])
      : Buffer.alloc(0);
    directory.push(
      fields([[4, 0x02014b50], [2, 45], ...common, [4, short(packed)], [4, short(size)], [2, Buffer.byteLength(name)]]),
      fields([
        [2, extra.length],
        [2, 0],
        [2, 0],
        [2, 0],
        [4, 0],
        [4, short(offset)],
      ]),
      Buffer.from(name),
      extra,
    );
    contents.push(local);
    at += local.length;
  }
  const bytes = Buffer.concat(directory);
  const entries = count ?? records.length;
  const end64 = zip64
    ? fields([
        [4, 0x06064b50],
        [8, 44],
        [2, 45],
        [2, 45],
        [4, 0],
        [4, 0],
        [8, entries],
        [8, entries],
        [8, bytes.length],
        [8, at],
        [4, 0x07064b50],
        [4, 0],
        [8, at + bytes.length],
        [4, 1],
      ])
    : Buffer.alloc(0);
  const few = zip64 ? 0xffff : entries;
  const end = fields([
    [4, 0x06054b50],
    [2, 0],
    [2, 0],
    [2, few],
    [2, few],
    [4, zip64 ? ALL_ONES : bytes.length],
    [4, zip64 ? ALL_ONES : at],
    [2, comment.length],
  ]);
  return Buffer.concat([...contents, bytes, end64, end, Buffer.from(comment)]);
}

/** A value in a pickle: opcodes that leave one thing on the stack. */
export type Pickled = Buffer;

const op = (...bytes: number[]): Buffer => Buffer.from(bytes);
const text = (value: string): Buffer => Buffer.from(value, 'latin1');

export const pickled = {
  none: text('N'),
  int: (n: number): Pickled => {
    const bytes = Buffer.alloc(5, 'J');
    bytes.writeInt32LE(n, 1);
    return bytes;
  },
  float: (x: number): Pickled => {
    const bytes = Buffer.alloc(9, 'G');
    bytes.writeDoubleBE(x, 1);
    return bytes;
  },
  bool: (b: boolean): Pickled => op(b ? 0x88 : 0x89),
  long: (...littleEndian: number[]): Pickled => op(0x8a, littleEndian.length, ...littleEndian),
  string: (s: string): Pickled => {
    const bytes = Buffer.from(s);
    return Buffer.concat([text('X'), fields([[4, bytes.length]]), bytes]);
  },
  list: (...items: Pickled[]): Pickled => Buffer.concat([text(']('), ...items, text('e')]),
  tuple: (...items: Pickled[]): Pickled => Buffer.concat([text('('), ...items, text('t')]),
  dict: (entries: Readonly<Record<string, Pickled>>): Pickled =>
    Buffer.concat([text('}('), ...Object.entries(entries).flatMap(([k, v]) => [pickled.string(k), v]), text('u')]),
  global: (module: string, name: string): Pickled => text(`c${module}\n${name}\n`),
  call: (callee: Pickled, ...args: Pickled[]): Pickled => Buffer.concat([callee, pickled.tuple(...args), text('R')]),
  /** Adds attributes. */
  build: (target: Pickled, state: Pickled): Pickled => Buffer.concat([target, state, text('b')]),
  orderedDict: (entries: Readonly<Record<string, Pickled>> = {}): Pickled =>
    Buffer.concat([pickled.call(pickled.global('collections', 'OrderedDict')), pickled.dict(entries).subarray(1)]),
  put: (index: number, value: Pickled): Pickled => Buffer.concat([value, op(0x71, index)]),
  get: (index: number): Pickled => op(0x68, index),
  /** @param view what the form before PyTorch 1.6 adds: none, or which part of the storage is meant */
  storage: (type: string, key: string, elements: Pickled, ...view: Pickled[]): Pickled =>
    Buffer.concat([
      pickled.tuple(
        pickled.string('storage'),
        pickled.global('torch', type),
        pickled.string(key),
        pickled.string('cpu'),
        elements,
        ...view,
      ),
      text('Q'),
    ]),
  tensor: (storage: Pickled, offset: number, shape: readonly number[], strides: readonly number[]): Pickled =>
    pickled.call(
      pickled.global('torch._utils', '_rebuild_tensor_v2'),
      storage,
      pickled.int(offset),
      pickled.tuple(...shape.map(pickled.int)),
      pickled.tuple(...strides.map(pickled.int)),
      pickled.bool(false),
      pickled.orderedDict(),
    ),
};

/** A whole pickle, protocol 2. */
export function pickleOf(value: Pickled): Buffer {
  return Buffer.concat([op(0x80, 2), value, text('.')]);
}

/** A file as torch.save writes it: the pickle, and a record for every storage. */
export function torchFile(
  value: Pickled,
  storages: Readonly<Record<string, Uint8Array>>,
  records: ZipRecord[] = [],
): Buffer {
  return zip([
    { name: 'archive/data.pkl', data: pickleOf(value) },
    ...Object.entries(storages).map(([key, data], i) => ({ name: `archive/data/${key}`, data, padding: 4 + (i % 60) })),
    ...records,
    { name: 'archive/version', data: Buffer.from('3\n') },
  ]);
}

/** The magic number of the form before PyTorch 1.6. */
export const LEGACY_MAGIC = pickleOf(pickled.long(0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19));

/** A storage in that form, of which the file may tell another number of elements. */
export interface LegacyStorage {
  readonly key: string;
  readonly count: number;
  readonly data: Uint8Array;
}

/** What stands before the saved object. */
export function legacyHead(version = 1001): Buffer {
  const machine = {
    protocol_version: pickled.int(1001),
    little_endian: pickled.bool(true),
    type_sizes: pickled.dict({}),
  };
  return Buffer.concat([LEGACY_MAGIC, pickleOf(pickled.int(version)), pickleOf(pickled.dict(machine))]);
}

/** A file as torch.save wrote it before PyTorch 1.6: pickles, then the storages one after the other. */
export function legacyTorchFile(
  value: Pickled,
  storages: readonly LegacyStorage[],
  keys: Pickled = pickled.list(...storages.map(({ key }) => pickled.string(key))),
): Buffer {
  const contents = storages.flatMap(({ count, data }) => [fields([[8, count]]), data]);
  return Buffer.concat([legacyHead(), pickleOf(value), pickleOf(keys), ...contents]);
}

type F32State = ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: Uint8Array }>;

/** The entries of a state dict of f32 tensors, each in a storage of its own. */
function stateEntries(tensors: F32State, ...view: Pickled[]): [Record<string, Pickled>, LegacyStorage[]] {
  const entries: Record<string, Pickled> = {};
  const storages: LegacyStorage[] = [];
  for (const [name, { shape, data }] of tensors) {
    const strides = shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1));
    const [key, count] = [String(storages.length), data.byteLength / 4];
    entries[name] = pickled.tensor(
      pickled.storage('FloatStorage', key, pickled.int(count), ...view),
      0,
      shape,
      strides,
    );
    storages.push({ key, count, data });
  }
  return [entries, storages];
}

/** A state dict of f32 tensors as torch.save writes it. */
export function torchState(tensors: F32State): Buffer {
  const [entries, storages] = stateEntries(tensors);
  return torchFile(pickled.orderedDict(entries), Object.fromEntries(storages.map(({ key, data }) => [key, data])));
}

/** The same as it was written before PyTorch 1.6. */
export function legacyTorchState(tensors: F32State): Buffer {
  const [entries, storages] = stateEntries(tensors, pickled.none);
  return legacyTorchFile(pickled.orderedDict(entries), storages);
}
