/** Safetensors files: lazy and whole reading, atomic writing. */
import { InfinityError } from '../errors.js';
import { type ByteSource, openWith } from './byte_source.js';
import { writeOutput } from './output_file.js';
import { headerLength, LENGTH_BYTES, parseHeader, type SafetensorsHeader } from './safetensors_header.js';
import {
  DTYPE_BYTES,
  elementCount,
  formatInfo,
  type LazyTensor,
  type TensorData,
  type TensorInfo,
} from './tensor_data.js';
import { noSuchTensor, readAll, type TensorSource } from './tensor_source.js';

/** One safetensors file, open for reading; of a large one only the header is in memory. */
export class SafetensorsFile implements TensorSource {
  private constructor(
    private readonly source: ByteSource,
    private readonly header: SafetensorsHeader,
  ) {}

  /** @throws InfinityError MODEL_NOT_FOUND, IO_ERROR or CHECKPOINT_INVALID, each naming the file */
  static async open(path: string): Promise<SafetensorsFile> {
    return openWith(path, async (source) => {
      const { size } = source;
      const length = headerLength(await source.read(0, Math.min(LENGTH_BYTES, size)), size, path);
      return new SafetensorsFile(source, parseHeader(await source.read(LENGTH_BYTES, length), size, path));
    });
  }

  get tensors(): SafetensorsHeader['tensors'] {
    return this.header.tensors;
  }

  get metadata(): Readonly<Record<string, string>> {
    return this.header.metadata;
  }

  async read(name: string): Promise<TensorData> {
    const entry = this.tensors.get(name);
    if (!entry) throw noSuchTensor(name, this.source.name);
    const { dtype, shape, begin, end } = entry;
    return { dtype, shape, data: await this.source.read(begin, end - begin) };
  }

  async close(): Promise<void> {
    await this.source.close();
  }
}

/** Every tensor of a file, read into memory. */
export async function readSafetensors(path: string): Promise<Map<string, TensorData>> {
  const source = await SafetensorsFile.open(path);
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
