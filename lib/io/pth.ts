/**
 * PyTorch files (.pth, .pt, .bin): a zip archive of one pickle and one record per storage. The pickle is read by a machine that
 * can only make data, sizes are checked against the records before anything is allocated, and of the records only what a tensor
 * covers is read. Source: torch/serialization.py (_save, _load), caffe2/serialize/inline_container.cc.
 */
import { InfinityError } from '../errors.js';
import { type ByteSource, bytesInMemory, openWith } from './byte_source.js';
import { type PickleValue, parsePickle } from './pickle.js';
import { contiguous, gather } from './strided.js';
import { DTYPE_BYTES, type TensorData } from './tensor_data.js';
import { noSuchTensor, type TensorSource } from './tensor_source.js';
import { StoredTensor, TorchObjects } from './torch_objects.js';
import { ZipArchive } from './zip.js';

const MAX_PICKLE_BYTES = 1 << 26;
/** What the pickle may come to in memory: so many times the file's size, and a little for small files. */
const MEMORY_FACTOR = 8;
const MEMORY_BASE = 1 << 16;
const MEMORY_MOST = 1 << 28;
/** Views that overlap can claim any number of elements; no checkpoint repeats its weights so often. */
const CLAIM_FACTOR = 8;
const MAX_DEPTH = 64;

/** The magic number that torch's older format begins with, as the first pickle of several. */
const LEGACY = Uint8Array.of(0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19);

function invalidPth(name: string, what: string, cure = 'Download or write the file again.'): InfinityError {
  return new InfinityError('CHECKPOINT_INVALID', `${name} is not a valid PyTorch file: ${what}.`, {
    value: name,
    cure,
  });
}

/** Counts what is made on behalf of the file. */
function allowance(name: string, most: number): (bytes: number) => void {
  let left = most;
  return (bytes) => {
    left -= bytes;
    if (left < 0) throw invalidPth(name, 'it describes more objects than a file of its size may');
  };
}

/** Files that are taken for zip archives by their name only, with what to do about each. */
async function checkBeginning(source: ByteSource): Promise<void> {
  const bytes = Buffer.from(await source.read(0, Math.min(source.size, LEGACY.byteLength)));
  if (bytes.subarray(0, 2).toString('latin1') === 'PK') return;
  if (bytes.equals(LEGACY))
    throw invalidPth(
      source.name,
      'it is in the form before PyTorch 1.6',
      'Load and save it with PyTorch 1.6 or later.',
    );
  if (bytes.toString('latin1').startsWith('version http'))
    throw invalidPth(source.name, 'it is a Git LFS pointer', 'Download the file that it stands for.');
  throw invalidPth(source.name, 'it does not begin as a zip archive', 'Check that it was saved with torch.save.');
}

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

/** The tensors of a tree by their dotted paths. Depth and work are limited, so containers may contain one another. */
function nameTensors(tree: PickleValue, name: string, charge: (bytes: number) => void): Map<string, StoredTensor> {
  const tensors = new Map<string, StoredTensor>();
  const visit = (value: PickleValue, path: string, depth: number): void => {
    charge(path.length + 16);
    if (depth > MAX_DEPTH) throw invalidPth(name, `it nests deeper than ${MAX_DEPTH} levels`);
    if (value instanceof StoredTensor) {
      if (tensors.has(path)) throw invalidPth(name, `two of its tensors are named ${JSON.stringify(path)}`);
      tensors.set(path, value);
      return;
    }
    const entries: Iterable<[unknown, PickleValue]> =
      value instanceof Map ? value.entries() : Array.isArray(value) ? value.entries() : [];
    for (const [key, child] of entries) visit(child, path === '' ? String(key) : `${path}.${key}`, depth + 1);
  };
  visit(tree, '', 0);
  return tensors;
}

/**
 * An open PyTorch file. Tensors of nested dictionaries and lists are named by their path with dots between the keys: a
 * plain state dict keeps its names, the tokenizer of `{"vae": {...}}` is `vae.encoder....`, an entry of a list is `list.0`.
 * Everything else that the file holds stands in `tree`, in which dictionaries are Maps, lists and tuples arrays, and tensors
 * `StoredTensor` descriptions; a caller walks it to find out how a checkpoint nests.
 */
export class PthFile implements TensorSource {
  readonly metadata = {};

  private constructor(
    private readonly source: ByteSource,
    private readonly archive: ZipArchive,
    private readonly root: string,
    readonly tree: PickleValue,
    readonly tensors: ReadonlyMap<string, StoredTensor>,
  ) {}

  /**
   * @throws InfinityError MODEL_NOT_FOUND, IO_ERROR; CHECKPOINT_INVALID for anything malformed, truncated or in the form
   *   before PyTorch 1.6; UNSAFE_PICKLE naming the global or opcode when the file asks for more than data
   */
  static async open(path: string): Promise<PthFile> {
    return openWith(path, (source) => PthFile.from(source));
  }

  /** Takes the source over. */
  static async from(source: ByteSource): Promise<PthFile> {
    const { name, size } = source;
    await checkBeginning(source);
    const archive = await ZipArchive.open(source);
    const root = rootOf(archive, name);
    const pickle = await record(archive, `${root}data.pkl`, name, MAX_PICKLE_BYTES);
    const order = archive.entries.has(`${root}byteorder`) && (await record(archive, `${root}byteorder`, name, 16));
    if (order && Buffer.from(order).toString('latin1') !== 'little')
      throw invalidPth(name, 'its numbers are not little-endian', 'Save it on a little-endian machine.');
    const objects = new TorchObjects(name);
    const charge = allowance(name, Math.min(MEMORY_FACTOR * size + MEMORY_BASE, MEMORY_MOST));
    const tree = parsePickle(pickle, { name, charge, globals: objects.globals, persistent: objects.persistent });
    for (const { key, dtype, elements } of objects.storages.values()) {
      const entry = archive.entries.get(`${root}data/${key}`);
      if (!entry) throw invalidPth(name, `its storage ${key} is missing`);
      if (entry.size !== elements * DTYPE_BYTES[dtype])
        throw invalidPth(name, `its storage ${key} has ${entry.size} bytes for ${elements} elements of ${dtype}`);
    }
    const tensors = nameTensors(tree, name, charge);
    let claimed = 0;
    for (const tensor of tensors.values()) claimed += tensor.byteLength;
    if (claimed > CLAIM_FACTOR * size)
      throw invalidPth(
        name,
        `its tensors overlap so much that they claim ${claimed} bytes of ${size}`,
        'Save copies of the tensors: tensor.clone() for each.',
      );
    return new PthFile(source, archive, root, tree, tensors);
  }

  async read(name: string): Promise<TensorData> {
    const tensor = this.tensors.get(name);
    if (!tensor) throw noSuchTensor(name, this.source.name);
    const { dtype, shape, offset, span } = tensor;
    const width = DTYPE_BYTES[dtype];
    const entry = this.archive.entries.get(`${this.root}data/${tensor.storage.key}`)!;
    const bytes = await this.archive.read(entry, offset * width, (offset + span) * width);
    return { dtype, shape, data: contiguous(tensor) ? bytes : gather(bytes, tensor, width) };
  }

  async close(): Promise<void> {
    await this.source.close();
  }
}

/**
 * A PyTorch file that is in memory already. Contiguous tensors share its bytes.
 * @throws InfinityError CHECKPOINT_INVALID, UNSAFE_PICKLE
 */
export async function parsePth(bytes: Uint8Array, name = 'buffer'): Promise<PthFile> {
  return PthFile.from(bytesInMemory(bytes, name));
}
