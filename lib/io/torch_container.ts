/** What the two forms of PyTorch's files have in common: a pickle that describes tensors, and the bytes of their storages. */
import { InfinityError } from '../errors.js';
import type { PickleValue } from './pickle.js';
import { TorchObjects } from './torch_objects.js';

/** Longest pickle: that of a checkpoint with some hundred thousand tensors. */
export const MAX_PICKLE_BYTES = 1 << 26;
/** What a pickle may come to in memory: so many times the file's size, and a little for small files. */
const MEMORY_FACTOR = 8;
const MEMORY_BASE = 1 << 16;
const MEMORY_MOST = 1 << 28;

/** An open file whose pickle was read and whose storages are all there. */
export interface TorchContainer {
  readonly tree: PickleValue;
  /** Charges what is made on behalf of the file to the same allowance as its pickle. */
  readonly charge: (bytes: number) => void;
  /** The bytes [begin, end) of a storage that the pickle describes. @throws InfinityError CHECKPOINT_INVALID, IO_ERROR */
  readStorage(key: string, begin: number, end: number): Promise<Uint8Array>;
}

export function invalidPth(name: string, what: string, cure = 'Download or write the file again.'): InfinityError {
  return new InfinityError('CHECKPOINT_INVALID', `${name} is not a valid PyTorch file: ${what}.`, {
    value: name,
    cure,
  });
}

/** The objects that a pickle of this file may make, with an allowance of their own. */
export function torchObjects({ name, size }: { readonly name: string; readonly size: number }): TorchObjects {
  let left = Math.min(MEMORY_FACTOR * size + MEMORY_BASE, MEMORY_MOST);
  return new TorchObjects(name, (bytes) => {
    left -= bytes;
    if (left < 0) throw invalidPth(name, 'it describes more objects than a file of its size may');
  });
}
