/**
 * PyTorch files (.pth, .pt, .bin) of both forms: a zip archive, or before version 1.6 pickles with the values behind them. The
 * pickle is read by a machine that can only make data, sizes are checked against the file before anything is allocated, and of
 * the values only what a tensor covers is read.
 */
import { type ByteSource, bytesInMemory, openWith } from './byte_source.js';
import type { PickleValue } from './pickle.js';
import { contiguous, gather } from './strided.js';
import { DTYPE_BYTES, type TensorData } from './tensor_data.js';
import { noSuchTensor, type TensorSource } from './tensor_source.js';
import { invalidPth, type TorchContainer } from './torch_container.js';
import { isTorchLegacy, LEGACY_BEGINNING, openTorchLegacy } from './torch_legacy.js';
import { StoredTensor } from './torch_objects.js';
import { openTorchZip } from './torch_zip.js';

/** Views that overlap can claim any number of elements; no checkpoint repeats its weights so often. */
const CLAIM_FACTOR = 8;
const MAX_DEPTH = 64;

/** Opens the form that the first bytes tell. */
async function openContainer(source: ByteSource): Promise<TorchContainer> {
  const bytes = await source.read(0, Math.min(source.size, LEGACY_BEGINNING));
  if (isTorchLegacy(bytes)) return openTorchLegacy(source);
  const text = Buffer.from(bytes).toString('latin1');
  if (text.startsWith('PK')) return openTorchZip(source);
  if (text.startsWith('version http'))
    throw invalidPth(source.name, 'it is a Git LFS pointer', 'Download the file that it stands for.');
  throw invalidPth(
    source.name,
    'it begins neither as a zip archive nor as a file of PyTorch before 1.6',
    'Check that it was saved with torch.save.',
  );
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
    private readonly container: TorchContainer,
    readonly tensors: ReadonlyMap<string, StoredTensor>,
  ) {}

  /** The object that was saved. */
  get tree(): PickleValue {
    return this.container.tree;
  }

  /**
   * @throws InfinityError MODEL_NOT_FOUND, IO_ERROR; CHECKPOINT_INVALID for anything malformed or truncated; UNSAFE_PICKLE
   *   naming the global or opcode when the file asks for more than data
   */
  static async open(path: string): Promise<PthFile> {
    return openWith(path, (source) => PthFile.from(source));
  }

  /** Takes the source over. */
  static async from(source: ByteSource): Promise<PthFile> {
    const { name, size } = source;
    const container = await openContainer(source);
    const tensors = nameTensors(container.tree, name, container.charge);
    let claimed = 0;
    for (const tensor of tensors.values()) claimed += tensor.byteLength;
    if (claimed > CLAIM_FACTOR * size)
      throw invalidPth(
        name,
        `its tensors overlap so much that they claim ${claimed} bytes of ${size}`,
        'Save copies of the tensors: tensor.clone() for each.',
      );
    return new PthFile(source, container, tensors);
  }

  async read(name: string): Promise<TensorData> {
    const tensor = this.tensors.get(name);
    if (!tensor) throw noSuchTensor(name, this.source.name);
    const { dtype, shape, offset, span } = tensor;
    const width = DTYPE_BYTES[dtype];
    const bytes = await this.container.readStorage(tensor.storage.key, offset * width, (offset + span) * width);
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
