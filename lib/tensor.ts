/**
 * Tensors and their lifetime. A tensor is contiguous and row-major; `reshape` and `slice0` are views. Memory is counted:
 * `scope` drops what was made inside it, a tape holds what it needs, everything else belongs to whoever made it.
 */
import { Device, type ProgramMemory } from './device.js';
import { InfinityError, invalidArgument } from './errors.js';

export type DType = 'f32' | 'f64' | 'bf16' | 'i32' | 'u8';
export type Shape = readonly number[];
export type TensorBytes = Float32Array | Float64Array | Uint16Array | Int32Array | Uint8Array;

/** Codes and element sizes as in native/core/tensor.h. */
export const dtypeCode: Record<DType, number> = { f32: 0, f64: 1, bf16: 2, i32: 3, u8: 4 };
export const dtypeBytes: Record<DType, number> = { f32: 4, f64: 8, bf16: 2, i32: 4, u8: 1 };
const MAX_RANK = 6;

/** Elements of a shape; [] has one. */
export function sizeOf(shape: Shape): number {
  let n = 1;
  for (const extent of shape) n *= extent;
  return n;
}

/** A block of device memory, shared by a tensor and its views. A handle of 0 is memory that has not been taken yet. */
class Storage {
  private owners = 1;
  /** Of the program that it was made in, if it was. */
  private readonly home: ProgramMemory | undefined;
  constructor(
    readonly device: Device,
    public handle: number,
  ) {
    this.home = device.recording;
  }
  /** A command that is being submitted uses it. */
  used(): void {
    const { recording } = this.device;
    if (recording && recording !== this.home) recording.hold(this);
  }
  retain(): this {
    this.owners++;
    return this;
  }
  release(): void {
    if (--this.owners === 0 && this.handle !== 0) this.device.free(this.handle);
  }
}

let nextId = 1;
let currentScope: Set<Tensor> | undefined;

/** Numbers on a device, filled in the order of its queue. Whoever makes one disposes it, unless a `scope` does. */
export class Tensor {
  /** Identity for the tape: a view has its own. */
  readonly id = nextId++;
  readonly size: number;
  private owners = 1;

  private constructor(
    private storage: Storage,
    readonly dtype: DType,
    readonly shape: Shape,
    /** @internal Bytes from the start of the storage. */
    readonly byteOffset: number,
  ) {
    this.size = sizeOf(shape);
    currentScope?.add(this);
  }

  /** @internal Takes over a handle that a command has just returned. */
  static adopt(device: Device, handle: number, dtype: DType, shape: Shape): Tensor {
    return new Tensor(new Storage(device, handle), dtype, shape, 0);
  }

  /** Uninitialised memory, to be written by an op in place. */
  static empty(shape: Shape, dtype: DType = 'f32', device: Device = Device.default()): Tensor {
    checkShape(shape);
    return Tensor.adopt(device, device.alloc(sizeOf(shape) * dtypeBytes[dtype]), dtype, shape);
  }

  /**
   * Copies numbers to the device. bf16 takes raw 16-bit patterns in a Uint16Array.
   * @throws InfinityError INVALID_SHAPE when the data does not fill the shape; OUT_OF_MEMORY
   */
  static from(
    data: TensorBytes | readonly number[],
    shape: Shape,
    dtype?: DType,
    device: Device = Device.default(),
  ): Tensor {
    checkShape(shape);
    const type = dtype ?? dtypeOf(data);
    if (data.length !== sizeOf(shape))
      throw new InfinityError(
        'INVALID_SHAPE',
        `Expected ${sizeOf(shape)} elements for shape [${shape.join(', ')}] but received ${data.length}.`,
        { value: data.length },
      );
    const tensor = Tensor.empty(shape, type, device);
    tensor.write(data);
    return tensor;
  }

  /**
   * A tensor whose memory is taken by its first `write`: a network can be described, counted and compared with a checkpoint
   * before a byte of it exists. Reading it before that is an error.
   */
  static declare(shape: Shape, dtype: DType = 'f32', device: Device = Device.default()): Tensor {
    checkShape(shape);
    return Tensor.adopt(device, 0, dtype, shape);
  }

  get device(): Device {
    return this.storage.device;
  }
  /** @internal */
  get handle(): number {
    if (this.owners <= 0) disposed();
    if (this.storage.handle === 0) unwritten(this.shape);
    this.storage.used();
    return this.storage.handle;
  }
  /** False until the first `write` of a declared tensor. */
  get written(): boolean {
    return this.storage.handle !== 0;
  }
  get disposed(): boolean {
    return this.owners <= 0;
  }
  get rank(): number {
    return this.shape.length;
  }
  get bytes(): number {
    return this.size * dtypeBytes[this.dtype];
  }

  /** @internal Takes the memory of a declared tensor without writing to it. */
  take(): void {
    if (this.owners <= 0) disposed();
    if (!this.written) this.storage.handle = this.device.alloc(this.bytes);
  }

  /** @internal Gives the memory up and declares the tensor again, with one owner, even where it was disposed. */
  redeclare(): void {
    const { device } = this;
    while (this.owners > 0) this.dispose();
    this.storage = new Storage(device, 0);
    this.owners = 1;
  }

  /** Overwrites the contents, in the order of the queue. */
  write(data: TensorBytes | readonly number[]): void {
    if (data.length !== this.size) invalidArgument('data', `${this.size} elements`, data.length);
    this.take();
    const typed = ArrayBuffer.isView(data) && dtypeOf(data) === this.dtype ? data : typedArray(this.dtype).from(data);
    this.device.upload(this.handle, this.byteOffset, new Uint8Array(typed.buffer, typed.byteOffset, typed.byteLength));
  }

  /** Copies the contents to JavaScript once everything submitted before has run. */
  async read(): Promise<TensorBytes> {
    const out = new (typedArray(this.dtype))(this.size);
    await this.device.read(this.handle, this.byteOffset, new Uint8Array(out.buffer));
    return out;
  }

  /** Reads numbers of a floating tensor; bf16 is widened. */
  async readFloats(): Promise<Float32Array | Float64Array> {
    const data = await this.read();
    if (data instanceof Float32Array || data instanceof Float64Array) return data;
    if (data instanceof Uint16Array) {
      const wide = new Uint32Array(data.length);
      for (let i = 0; i < data.length; i++) wide[i] = data[i]! << 16;
      return new Float32Array(wide.buffer);
    }
    return Float32Array.from(data);
  }

  /** @internal A view of the same memory: not recorded on a tape. Ops use `reshape` of lib/ops/shape.ts. */
  view(shape: Shape, elementOffset = 0): Tensor {
    const offset = this.byteOffset + elementOffset * dtypeBytes[this.dtype];
    if (this.owners <= 0) disposed();
    return new Tensor(this.storage.retain(), this.dtype, shape, offset);
  }

  /** Adds an owner; each needs its own `dispose`. */
  retain(): this {
    if (this.owners <= 0) disposed();
    this.owners++;
    return this;
  }

  /** Drops one owner. Disposing once more than retained is harmless. */
  dispose(): void {
    if (this.owners > 0 && --this.owners === 0) this.storage.release();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function disposed(): never {
  throw new InfinityError('DISPOSED', 'Expected a live tensor but received one that was disposed.', {
    cure: 'Return a tensor from scope(), or retain() it, to use it afterwards.',
  });
}

function unwritten(shape: Shape): never {
  throw new InfinityError(
    'INVALID_ARGUMENT',
    `Expected a tensor with contents but received a declared one [${shape.join(', ')}].`,
    { value: shape, cure: 'Load a checkpoint, or call initialize(seed), before using a network.' },
  );
}

function checkShape(shape: Shape): void {
  if (shape.length > MAX_RANK || !shape.every((n) => Number.isSafeInteger(n) && n > 0 && n < 2 ** 32))
    throw new InfinityError(
      'INVALID_SHAPE',
      `Expected at most ${MAX_RANK} positive extents for a shape but received [${shape.join(', ')}].`,
      { value: shape, cure: 'An empty batch has nothing to compute: leave the call out.' },
    );
}

function dtypeOf(data: TensorBytes | readonly number[]): DType {
  if (data instanceof Float64Array) return 'f64';
  if (data instanceof Uint16Array) return 'bf16';
  if (data instanceof Int32Array) return 'i32';
  if (data instanceof Uint8Array) return 'u8';
  return 'f32';
}

function typedArray(dtype: DType) {
  switch (dtype) {
    case 'f32':
      return Float32Array;
    case 'f64':
      return Float64Array;
    case 'bf16':
      return Uint16Array;
    case 'i32':
      return Int32Array;
    case 'u8':
      return Uint8Array;
  }
}

function collect(value: unknown, into: Set<Tensor>): void {
  if (value instanceof Tensor) into.add(value);
  else if (Array.isArray(value)) for (const item of value) collect(item, into);
  else if (value instanceof Map) for (const item of value.values()) collect(item, into);
  else if (value !== null && typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype)
    for (const item of Object.values(value)) collect(item, into);
}

/**
 * Runs `fn` and drops every tensor made in it, except those in its result (a tensor, or arrays, maps and plain objects of
 * them), which pass to the enclosing scope or to the caller. Synchronous only: a scope across an await would free other
 * callers' tensors.
 */
export function scope<T>(fn: () => T): T {
  const outer = currentScope;
  const mine = new Set<Tensor>();
  currentScope = mine;
  let kept = new Set<Tensor>();
  try {
    const result = fn();
    if (result instanceof Promise) invalidArgument('the function of scope()', 'a synchronous function', fn);
    collect(result, kept);
    return result;
  } catch (error) {
    kept = new Set();
    throw error;
  } finally {
    currentScope = outer;
    for (const tensor of mine) {
      if (kept.has(tensor)) outer?.add(tensor);
      else tensor.dispose();
    }
  }
}

/** Runs `fn` so that what it makes belongs to the caller, even inside a scope: for caches and weights. */
export function unscoped<T>(fn: () => T): T {
  const outer = currentScope;
  currentScope = undefined;
  try {
    return fn();
  } finally {
    currentScope = outer;
  }
}
