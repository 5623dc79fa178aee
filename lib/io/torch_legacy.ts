/**
 * PyTorch's files before version 1.6, and those of `_use_new_zipfile_serialization=False`: pickles one after the other (magic
 * number, version, properties of the machine, the saved object, keys of its storages), then for each key the number of its elements
 * and their values. The values are little-endian whatever the machine was. Source: torch/serialization.py (_legacy_save,
 * _legacy_load), torch/csrc/serialization.cpp (writeFileRaw).
 */
import type { ByteSource } from './byte_source.js';
import { type PickleHost, type PickleValue, readPickle } from './pickle.js';
import { DTYPE_BYTES } from './tensor_data.js';
import { invalidPth, MAX_PICKLE_BYTES, type TorchContainer, torchObjects } from './torch_container.js';
import type { TorchObjects } from './torch_objects.js';

const MAGIC_NUMBER = 0x1950a86a20f9469cfc6cn;
const PROTOCOL_VERSION = 1001;
/** The number of elements before the values of a storage. */
const COUNT_BYTES = 8;
/** What is read of a file at first for a pickle, whose length nothing tells. */
const FIRST_READ = 1 << 16;

/** Pickles that follow one another in a file. */
class PickleStream {
  /** Where the next one begins. */
  at = 0;

  constructor(private readonly source: ByteSource) {}

  /**
   * The next pickle. What is read of the file grows until the pickle's end is in it, and every attempt begins anew: the last costs
   * more than all others together.
   *
   * @param makeHost makes the host of one attempt
   */
  async next<H extends PickleHost>(makeHost: () => H): Promise<{ readonly value: PickleValue; readonly host: H }> {
    const { name, size } = this.source;
    for (let length = FIRST_READ; ; length *= 4) {
      const there = Math.min(length, MAX_PICKLE_BYTES, size - this.at);
      const host = makeHost();
      const found = readPickle(await this.source.read(this.at, there), host);
      if (found) {
        this.at += found.bytes;
        return { value: found.value, host };
      }
      if (there === size - this.at) throw invalidPth(name, 'a pickle in it is cut off');
      if (there === MAX_PICKLE_BYTES) throw invalidPth(name, `a pickle in it is longer than ${there} bytes`);
    }
  }
}

/** The magic number as a pickled integer, which stands behind the protocol, or from protocol 4 on behind a frame's length. */
const PICKLED_MAGIC = Uint8Array.of(0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19);
const MAGIC_PLACES = [2, 11];
/** What `isTorchLegacy` wants to see of a file. */
export const LEGACY_BEGINNING = 11 + PICKLED_MAGIC.byteLength;

/** Whether a file begins as this form does. */
export function isTorchLegacy(beginning: Uint8Array): boolean {
  return beginning[0] === 0x80 && MAGIC_PLACES.includes(Buffer.from(beginning).indexOf(PICKLED_MAGIC));
}

const shown = (key: PickleValue): string => (typeof key === 'string' ? JSON.stringify(key.slice(0, 80)) : 'no key');

/** Where the values of each storage begin, in order of the file; all of them must be there, and nothing else. */
async function locateStorages(
  source: ByteSource,
  begin: number,
  keys: PickleValue,
  { storages }: TorchObjects,
): Promise<Map<string, number>> {
  const { name, size } = source;
  if (!Array.isArray(keys)) throw invalidPth(name, 'it has no list of storages');
  const found = new Map<string, number>();
  let at = begin;
  for (const key of keys as readonly PickleValue[]) {
    const storage = typeof key === 'string' ? storages.get(key) : undefined;
    if (!storage) throw invalidPth(name, `its list of storages names ${shown(key)}, which it does not describe`);
    if (found.has(storage.key)) throw invalidPth(name, `its storage ${storage.key} is listed twice`);
    const { dtype, elements } = storage;
    if (at + COUNT_BYTES + elements * DTYPE_BYTES[dtype] > size)
      throw invalidPth(name, `it is cut off in its storage ${storage.key} of ${elements} elements of ${dtype}`);
    const count = Buffer.from(await source.read(at, COUNT_BYTES)).readBigInt64LE();
    if (count !== BigInt(elements))
      throw invalidPth(name, `its storage ${storage.key} counts ${count} elements instead of ${elements}`);
    found.set(storage.key, at + COUNT_BYTES);
    at += COUNT_BYTES + elements * DTYPE_BYTES[dtype];
  }
  const missing = [...storages.keys()].find((key) => !found.has(key));
  if (missing !== undefined) throw invalidPth(name, `its storage ${missing} is missing`);
  if (at !== size) throw invalidPth(name, `${size - at} bytes follow its last storage`);
  return found;
}

/**
 * The form has no checksums: damage inside the values of a tensor cannot be told.
 * @throws InfinityError CHECKPOINT_INVALID, UNSAFE_PICKLE
 */
export async function openTorchLegacy(source: ByteSource): Promise<TorchContainer> {
  const { name } = source;
  const stream = new PickleStream(source);
  const plain = (): TorchObjects => torchObjects(source);
  const magic = await stream.next(plain);
  const version = await stream.next(plain);
  if (magic.value !== MAGIC_NUMBER || version.value !== PROTOCOL_VERSION)
    throw invalidPth(name, 'it does not begin as a file of torch.save');
  await stream.next(plain);
  const { value: tree, host } = await stream.next(plain);
  const keys = await stream.next(plain);
  const places = await locateStorages(source, stream.at, keys.value, host);
  return {
    tree,
    charge: host.charge,
    readStorage: (key, begin, end) => source.read(places.get(key)! + begin, end - begin),
  };
}
