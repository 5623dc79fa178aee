/** Safetensors files: lazy and whole reading, sharded reading through an index, atomic writing. */
import { type FileHandle, open, readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { InfinityError } from '../errors.js';
import { MAX_TRANSFER, writeOutput } from './output_file.js';
import { headerLength, invalidFile, LENGTH_BYTES, parseHeader, type SafetensorsHeader } from './safetensors_header.js';
import {
  DTYPE_BYTES,
  elementCount,
  formatInfo,
  type LazyTensor,
  type TensorData,
  type TensorInfo,
} from './tensor_data.js';

/** Named tensors that are read on demand, from one file or from many. Close it when done. */
export interface TensorSource {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: Readonly<Record<string, string>>;
  /** @throws InfinityError CHECKPOINT_INVALID when there is no such tensor or its bytes cannot be read */
  read(name: string): Promise<TensorData>;
  close(): Promise<void>;
}

/** The usual name of the index beside the shards of one component. */
export const INDEX_SUFFIX = '.safetensors.index.json';

function missing(path: string, cause: unknown): InfinityError {
  const code = (cause as NodeJS.ErrnoException)?.code;
  const absent = code === 'ENOENT' || code === 'ENOTDIR';
  return new InfinityError(absent ? 'MODEL_NOT_FOUND' : 'IO_ERROR', `Cannot read ${path} (${code ?? String(cause)}).`, {
    value: path,
    cure: absent ? 'Check the path, or download the file.' : 'Check that it is a readable file.',
    cause,
  });
}

async function readExactly(file: FileHandle, begin: number, length: number, path: string): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const { bytesRead } = await file.read(bytes, at, Math.min(length - at, MAX_TRANSFER), begin + at);
    if (bytesRead === 0) throw invalidFile(path, `it ends ${length - at} bytes early`);
    at += bytesRead;
  }
  return bytes;
}

/** Files up to this size are read whole with the first tensor: hundreds of small reads cost more than one large one. */
const WHOLE_FILE = 1 << 25;

/** One safetensors file, open for reading; of a large one only the header is in memory. */
export class SafetensorsFile implements TensorSource {
  private whole: Promise<Uint8Array> | undefined;

  private constructor(
    readonly path: string,
    private readonly file: FileHandle,
    private readonly size: number,
    private readonly header: SafetensorsHeader,
  ) {}

  /** @throws InfinityError MODEL_NOT_FOUND, IO_ERROR or CHECKPOINT_INVALID, each naming the file */
  static async open(path: string): Promise<SafetensorsFile> {
    const file = await open(path, 'r').catch((cause) => Promise.reject(missing(path, cause)));
    try {
      const stats = await file.stat();
      if (!stats.isFile()) throw missing(path, 'not a regular file');
      const prefix = await readExactly(file, 0, Math.min(LENGTH_BYTES, stats.size), path);
      const length = headerLength(prefix, stats.size, path);
      const header = parseHeader(await readExactly(file, LENGTH_BYTES, length, path), stats.size, path);
      return new SafetensorsFile(path, file, stats.size, header);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  get tensors(): SafetensorsHeader['tensors'] {
    return this.header.tensors;
  }

  get metadata(): Readonly<Record<string, string>> {
    return this.header.metadata;
  }

  async read(name: string): Promise<TensorData> {
    const entry = this.tensors.get(name);
    if (!entry) throw noSuchTensor(name, this.path);
    const { dtype, shape, begin, end } = entry;
    return { dtype, shape, data: await this.bytes(begin, end) };
  }

  private async bytes(begin: number, end: number): Promise<Uint8Array> {
    if (this.size > WHOLE_FILE) return readExactly(this.file, begin, end - begin, this.path);
    this.whole ??= readExactly(this.file, 0, this.size, this.path);
    // A copy starts where its elements can be viewed in their own type.
    return (await this.whole).slice(begin, end);
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}

function noSuchTensor(name: string, path: string): InfinityError {
  return new InfinityError('CHECKPOINT_INVALID', `Expected a tensor "${name}" in ${path} but found none.`, {
    value: name,
    cure: 'Check that the file belongs to this model.',
  });
}

/** Tensors spread over several files, as listed by a `*.safetensors.index.json`. */
class ShardedTensors implements TensorSource {
  readonly tensors = new Map<string, TensorInfo>();
  private readonly homes = new Map<string, SafetensorsFile>();
  private readonly shards = new Map<string, SafetensorsFile>();

  constructor(
    private readonly path: string,
    readonly metadata: Readonly<Record<string, string>>,
  ) {}

  async add(weightMap: Record<string, unknown>): Promise<void> {
    for (const [name, shardName] of Object.entries(weightMap)) {
      // A bare name only: an index must not reach outside its own folder.
      if (typeof shardName !== 'string' || basename(shardName) !== shardName || !shardName.endsWith('.safetensors')) {
        throw invalidIndex(this.path, `"${name}" lies in ${JSON.stringify(shardName)}`);
      }
      let shard = this.shards.get(shardName);
      if (!shard) {
        shard = await SafetensorsFile.open(join(dirname(this.path), shardName));
        this.shards.set(shardName, shard);
      }
      const info = shard.tensors.get(name);
      if (!info) throw noSuchTensor(name, shard.path);
      this.tensors.set(name, info);
      this.homes.set(name, shard);
    }
  }

  async read(name: string): Promise<TensorData> {
    const home = this.homes.get(name);
    if (!home) throw noSuchTensor(name, this.path);
    return home.read(name);
  }

  async close(): Promise<void> {
    await Promise.all([...this.shards.values()].map((shard) => shard.close()));
  }
}

function invalidIndex(path: string, what: string): InfinityError {
  return new InfinityError('CHECKPOINT_INVALID', `${path} is not a valid shard index: ${what}.`, {
    value: path,
    cure: 'Download or write the file again.',
  });
}

async function openSharded(path: string): Promise<TensorSource> {
  const text = await readFile(path, 'utf8').catch((cause) => Promise.reject(missing(path, cause)));
  let weightMap: unknown;
  try {
    weightMap = (JSON.parse(text) as { weight_map?: unknown } | null)?.weight_map;
  } catch {
    throw invalidIndex(path, 'it is not JSON');
  }
  if (typeof weightMap !== 'object' || weightMap === null) throw invalidIndex(path, 'it has no weight_map');
  const sharded = new ShardedTensors(path, {});
  try {
    await sharded.add(weightMap as Record<string, unknown>);
    return sharded;
  } catch (error) {
    await sharded.close();
    throw error;
  }
}

/** Opens a `.safetensors` file, or all shards of a `.safetensors.index.json`. */
export async function openTensors(path: string): Promise<TensorSource> {
  return path.endsWith('.json') ? openSharded(path) : SafetensorsFile.open(path);
}

/** All tensors of a source, in file order. */
export async function readAll(source: TensorSource): Promise<Map<string, TensorData>> {
  const tensors = new Map<string, TensorData>();
  for (const name of source.tensors.keys()) tensors.set(name, await source.read(name));
  return tensors;
}

/** Every tensor of a file (or of an index's shards), read into memory. */
export async function readSafetensors(path: string): Promise<Map<string, TensorData>> {
  const source = await openTensors(path);
  try {
    return await readAll(source);
  } finally {
    await source.close();
  }
}

/** Parses a safetensors file that is in memory already; the tensors share its bytes. */
export function parseSafetensors(bytes: Uint8Array, name = 'buffer'): Map<string, TensorData> {
  const length = headerLength(bytes.subarray(0, LENGTH_BYTES), bytes.byteLength, name);
  const { tensors } = parseHeader(bytes.subarray(LENGTH_BYTES, LENGTH_BYTES + length), bytes.byteLength, name);
  return new Map(
    [...tensors].map(([key, { dtype, shape, begin, end }]) => [
      key,
      { dtype, shape, data: bytes.subarray(begin, end) },
    ]),
  );
}

type Writable = TensorData | LazyTensor;

/** Header and order of the tensors of a file. Wide types come first, so that every tensor is aligned. */
function layout<T extends Writable>(
  tensors: ReadonlyMap<string, T>,
  metadata: Readonly<Record<string, string>>,
): { readonly header: Uint8Array[]; readonly order: [string, T][] } {
  const order = [...tensors].sort(([a, x], [b, y]) => DTYPE_BYTES[y.dtype] - DTYPE_BYTES[x.dtype] || (a < b ? -1 : 1));
  const header: Record<string, unknown> = Object.create(null);
  if (Object.keys(metadata).length > 0) header.__metadata__ = metadata;
  let at = 0;
  for (const [name, { dtype, shape }] of order) {
    const bytes = elementCount(shape) * DTYPE_BYTES[dtype];
    header[name] = { dtype, shape, data_offsets: [at, at + bytes] };
    at += bytes;
  }
  const json = Buffer.from(JSON.stringify(header));
  const padded = Buffer.alloc(Math.ceil(json.byteLength / 8) * 8, ' ');
  padded.set(json);
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeBigUInt64LE(BigInt(padded.byteLength));
  return { header: [length, padded], order };
}

/** @throws InfinityError INVALID_SHAPE unless the bytes fill the tensor */
function checkBytes(name: string, info: TensorInfo, data: Uint8Array): Uint8Array {
  const bytes = elementCount(info.shape) * DTYPE_BYTES[info.dtype];
  if (name !== '__metadata__' && data.byteLength === bytes) return data;
  throw new InfinityError(
    'INVALID_SHAPE',
    `Expected ${bytes} bytes for "${name}" (${formatInfo(info)}) but received ${data.byteLength}.`,
    { value: name },
  );
}

/** The chunks of a file, one tensor after the other: of lazy ones no more than one is in memory. */
export async function* safetensorsChunks(
  tensors: ReadonlyMap<string, Writable>,
  metadata: Readonly<Record<string, string>>,
): AsyncGenerator<Uint8Array> {
  const { header, order } = layout(tensors, metadata);
  yield* header;
  for (const [name, tensor] of order)
    yield checkBytes(name, tensor, 'load' in tensor ? await tensor.load() : tensor.data);
}

/** A safetensors file in memory. `metadata` is stored as the header's map of strings. */
export function serializeSafetensors(
  tensors: ReadonlyMap<string, TensorData>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const { header, order } = layout(tensors, metadata);
  return Buffer.concat([...header, ...order.map(([name, tensor]) => checkBytes(name, tensor, tensor.data))]);
}

/**
 * Writes a safetensors file atomically (see `writeOutput`), without a second copy of the tensors in memory.
 *
 * @throws InfinityError INVALID_SHAPE, IO_ERROR, DISK_FULL
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, Writable>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  await writeOutput(path, safetensorsChunks(tensors, metadata));
}
