/**
 * PyTorch's files since version 1.6: a zip archive of one pickle and one record per storage. Source: torch/serialization.py
 * (_save, _load), caffe2/serialize/inline_container.cc.
 */
import type { ByteSource } from './byte_source.js';
import { parsePickle } from './pickle.js';
import { DTYPE_BYTES } from './tensor_data.js';
import { invalidPth, MAX_PICKLE_BYTES, type TorchContainer, torchObjects } from './torch_container.js';
import { ZipArchive } from './zip.js';

/** The folder that holds all records: the name torch.save was given, or "archive". */
function rootOf(archive: ZipArchive, name: string): string {
  const [first] = archive.entries.keys();
  if (first === undefined) throw invalidPth(name, 'it is empty');
  const root = first.slice(0, first.indexOf('/') + 1);
  const stray = root === '' ? first : [...archive.entries.keys()].find((entry) => !entry.startsWith(root));
  if (stray !== undefined) throw invalidPth(name, `its entry ${JSON.stringify(stray)} is in no folder with the others`);
  return root;
}

async function record(archive: ZipArchive, path: string, name: string, most: number): Promise<Uint8Array> {
  const entry = archive.entries.get(path);
  if (!entry) throw invalidPth(name, `it has no record ${path}`);
  if (entry.size > most) throw invalidPth(name, `its record ${path} has ${entry.size} bytes`);
  return archive.read(entry);
}

/** @throws InfinityError CHECKPOINT_INVALID, UNSAFE_PICKLE */
export async function openTorchZip(source: ByteSource): Promise<TorchContainer> {
  const { name } = source;
  const archive = await ZipArchive.open(source);
  const root = rootOf(archive, name);
  const pickle = await record(archive, `${root}data.pkl`, name, MAX_PICKLE_BYTES);
  const order = archive.entries.has(`${root}byteorder`) && (await record(archive, `${root}byteorder`, name, 16));
  if (order && Buffer.from(order).toString('latin1') !== 'little')
    throw invalidPth(name, 'its numbers are not little-endian', 'Save it on a little-endian machine.');
  const objects = torchObjects(source);
  const tree = parsePickle(pickle, objects);
  for (const { key, dtype, elements } of objects.storages.values()) {
    const entry = archive.entries.get(`${root}data/${key}`);
    if (!entry) throw invalidPth(name, `its storage ${key} is missing`);
    if (entry.size !== elements * DTYPE_BYTES[dtype])
      throw invalidPth(name, `its storage ${key} has ${entry.size} bytes for ${elements} elements of ${dtype}`);
  }
  return {
    tree,
    charge: objects.charge,
    readStorage: (key, begin, end) => archive.read(archive.entries.get(`${root}data/${key}`)!, begin, end),
  };
}
