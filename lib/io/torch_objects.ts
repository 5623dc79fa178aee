/**
 * What torch.save puts into a pickle, as descriptions: storages, the tensors that view them, and the few other globals a
 * checkpoint may name. Source: torch/serialization.py (persistent_load), torch/_utils.py (_rebuild_*).
 */
import {
  invalidPickle,
  PAIR_BYTES,
  PickleAttributes,
  type PickleDict,
  PickleGlobal,
  type PickleHost,
  type PickleKey,
  PickleObject,
  type PickleValue,
} from './pickle.js';
import { DTYPE_BYTES, type TensorDType, type TensorInfo } from './tensor_data.js';

/** Elements of one type that the file holds, or some of them: before PyTorch 0.4 storages could be views of others. */
export class Storage extends PickleObject {
  constructor(
    readonly dtype: TensorDType,
    readonly key: string,
    readonly elements: number,
    /** Where its first element stands among those of the storage in the file. */
    readonly begin = 0,
  ) {
    super();
  }
}

/** A tensor of a PyTorch file: a strided view of a storage in the file. `offset` and `strides` count elements. */
export class StoredTensor extends PickleObject implements TensorInfo {
  constructor(
    readonly storage: Storage,
    readonly offset: number,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
  ) {
    super();
  }

  get dtype(): TensorDType {
    return this.storage.dtype;
  }

  get count(): number {
    return this.shape.includes(0) ? 0 : this.shape.reduce((n, extent) => n * extent, 1);
  }

  get byteLength(): number {
    return this.count * DTYPE_BYTES[this.dtype];
  }

  /** Elements from its first to its last, gaps included. */
  get span(): number {
    return this.count === 0 ? 0 : this.shape.reduce((at, extent, i) => at + (extent - 1) * this.strides[i]!, 1);
  }
}

const STORAGES: Readonly<Record<string, TensorDType>> = {
  DoubleStorage: 'F64',
  FloatStorage: 'F32',
  HalfStorage: 'F16',
  BFloat16Storage: 'BF16',
  LongStorage: 'I64',
  IntStorage: 'I32',
  ShortStorage: 'I16',
  CharStorage: 'I8',
  ByteStorage: 'U8',
  BoolStorage: 'BOOL',
};

const DTYPE_NAMES =
  'float64 double float32 float float16 half bfloat16 int64 long int32 int int16 short int8 uint8 bool complex64 complex128';

const MAX_RANK = 16;

function isCount(n: unknown): n is number {
  return Number.isSafeInteger(n) && (n as number) >= 0;
}

function isCounts(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.length <= MAX_RANK && value.every(isCount);
}

/**
 * The globals that a checkpoint may name, and the storages its persistent ids mean.
 * @param name of the file, for messages
 */
export class TorchObjects implements PickleHost {
  private readonly allowed = new Map<string, PickleGlobal>();
  private readonly storageTypes = new Map<PickleValue, TensorDType>();
  /** Those in the file, by key. */
  readonly storages = new Map<string, Storage>();

  constructor(
    readonly name: string,
    readonly charge: (bytes: number) => void,
  ) {
    for (const [storage, dtype] of Object.entries(STORAGES)) {
      const global = this.allow(`torch.${storage}`);
      this.storageTypes.set(global, dtype);
    }
    for (const dtype of DTYPE_NAMES.split(' ')) this.allow(`torch.${dtype}`);
    this.allow('collections.OrderedDict', (args) => this.orderedDict(args));
    this.allow('argparse.Namespace', () => new PickleAttributes());
    this.allow('torch.Size', ([sizes = []]) => (isCounts(sizes) ? sizes : this.refuse('a torch.Size is malformed')));
    this.allow('torch.device', (args) => args.map(String).join(':'));
    const rebuild = (args: readonly PickleValue[]) => this.tensor(args);
    this.allow('torch._utils._rebuild_tensor', rebuild);
    this.allow('torch._utils._rebuild_tensor_v2', rebuild);
    // A parameter is its tensor: what it adds concerns training only.
    const parameter = ([data]: readonly PickleValue[]) =>
      data instanceof StoredTensor ? data : this.refuse('a parameter holds no tensor');
    this.allow('torch._utils._rebuild_parameter', parameter);
    this.allow('torch._utils._rebuild_parameter_with_state', parameter);
  }

  readonly globals = (name: string): PickleGlobal | undefined => this.allowed.get(name);

  /** ("storage", type, key, device, elements), before PyTorch 1.6 with what it is a view of */
  readonly persistent = (id: PickleValue): Storage => {
    const [kind, type, key, , elements, view = null] = Array.isArray(id) ? (id as readonly PickleValue[]) : [];
    const dtype = type === undefined ? undefined : this.storageTypes.get(type);
    if (kind !== 'storage' || !dtype || typeof key !== 'string' || !isCount(elements))
      return this.refuse('a persistent id describes no storage');
    const known = this.storages.get(key);
    if (known && (known.dtype !== dtype || known.elements !== elements))
      return this.refuse(`storage ${JSON.stringify(key)} is described twice`);
    const storage = known ?? new Storage(dtype, key, elements);
    this.storages.set(key, storage);
    return view === null ? storage : this.part(storage, view);
  };

  /** (key of the view, its first element, its elements) */
  private part({ dtype, key, elements }: Storage, view: PickleValue): Storage {
    const [, begin, count] = Array.isArray(view) ? (view as readonly PickleValue[]) : [];
    if (!isCount(begin) || !isCount(count) || begin + count > elements)
      return this.refuse(`a view of storage ${JSON.stringify(key)} is malformed`);
    return new Storage(dtype, key, count, begin);
  }

  private refuse(what: string): never {
    throw invalidPickle(this.name, what);
  }

  private allow(name: string, call?: PickleGlobal['call']): PickleGlobal {
    const global = new PickleGlobal(name, call);
    this.allowed.set(name, global);
    return global;
  }

  /** Empty, to be filled by the pickle; of Python 2 with a list of [key, value]. */
  private orderedDict([pairs = []]: readonly PickleValue[]): PickleDict {
    const entries = Array.isArray(pairs) ? (pairs as readonly PickleValue[]) : [pairs];
    this.charge(PAIR_BYTES * entries.length);
    return new Map(entries.map((pair) => this.entry(pair)));
  }

  private entry(pair: PickleValue): [PickleKey, PickleValue] {
    const [key, value, more] = Array.isArray(pair) ? (pair as readonly PickleValue[]) : [];
    if (key === undefined || value === undefined || more !== undefined || (typeof key === 'object' && key !== null))
      return this.refuse('an OrderedDict is made of something else than keys and values');
    return [key, value];
  }

  /** (storage, offset, size, stride, ...): what follows concerns gradients. */
  private tensor([storage, offset, shape, strides]: readonly PickleValue[]): StoredTensor {
    if (!(storage instanceof Storage)) return this.refuse('a tensor has no storage');
    if (!isCount(offset) || !isCounts(shape) || !isCounts(strides) || shape.length !== strides.length)
      return this.refuse('a tensor has no valid offset, shape and strides');
    const tensor = new StoredTensor(storage, storage.begin + offset, shape.slice(), strides.slice());
    if (tensor.count > 0 && offset + tensor.span > storage.elements)
      this.refuse(
        `a tensor [${shape.join(', ')}] reaches to element ${offset + tensor.span} of a storage of ${storage.elements}`,
      );
    return tensor;
  }
}
