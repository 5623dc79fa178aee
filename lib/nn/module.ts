/**
 * Networks as trees of named parameters. Names are the official dotted ones, so a state dict of a module is a state dict of
 * the reference. Nothing is allocated until `load` or `initialize`.
 */
import { Device } from '../device.js';
import { InfinityError } from '../errors.js';
import { type DType, type Shape, sizeOf, Tensor, unscoped } from '../tensor.js';
import { Draws, type Init } from './init.js';

/** A tensor of a state dict on the host. */
export interface HostTensor {
  readonly shape: Shape;
  readonly data: Float32Array;
}
export type StateDict = ReadonlyMap<string, HostTensor>;

/** Weights that are read one at a time, for networks that do not fit twice into memory. */
export interface WeightSource {
  readonly shapes: ReadonlyMap<string, Shape>;
  read(name: string): Promise<Float32Array>;
}

export interface LoadOptions {
  /** Names in the source that belong to no parameter and are no mistake. */
  readonly ignore?: (name: string) => boolean;
  /** Pack the weights as they arrive (see `freeze`). */
  readonly freeze?: WeightFormat;
}

/** Storage of a frozen network's matrices: `bf16` halves the memory, arithmetic stays f32. */
export type WeightFormat = 'f32' | 'bf16';

interface Slot {
  readonly tensor: Tensor;
  readonly init: Init;
  readonly trainable: boolean;
}

export interface Placement {
  readonly device?: Device;
  /** f64 makes a reference network: every op then runs in double precision. */
  readonly dtype?: Extract<DType, 'f32' | 'f64'>;
}

let placement: Placement = {};

/** Modules that `fn` constructs live on this device and in this type. */
export function placed<T>(where: Placement, fn: () => T): T {
  const before = placement;
  placement = { ...before, ...where };
  try {
    return fn();
  } finally {
    placement = before;
  }
}

export class Module {
  private readonly slots = new Map<string, Slot>();
  private readonly children = new Map<string, Module>();
  private packedAs: WeightFormat | undefined;

  /** Registers a trained tensor under `name`, which may be dotted ("ca.mat_q"). */
  protected parameter(name: string, shape: Shape, init: Init): Tensor {
    return this.register(name, shape, init, true);
  }

  /** Registers a tensor without gradient that is part of the state dict. */
  protected buffer(name: string, shape: Shape, init: Init): Tensor {
    return this.register(name, shape, init, false);
  }

  /** Registers a module below `name`. */
  protected child<M extends Module>(name: string, module: M): M {
    this.refuseTaken(name);
    this.children.set(name, module);
    return module;
  }

  private register(name: string, shape: Shape, init: Init, trainable: boolean): Tensor {
    this.refuseTaken(name);
    const { device = Device.default(), dtype = 'f32' } = placement;
    const tensor = unscoped(() => Tensor.declare(shape, dtype, device));
    this.slots.set(name, { tensor, init, trainable });
    return tensor;
  }

  private refuseTaken(name: string): void {
    if (this.slots.has(name) || this.children.has(name))
      throw new InfinityError('INTERNAL', `The name '${name}' was registered twice in one module.`, { value: name });
  }

  private *entries(prefix: string): Generator<[string, Slot]> {
    for (const [name, slot] of this.slots) yield [prefix + name, slot];
    for (const [name, module] of this.children) yield* module.entries(`${prefix}${name}.`);
  }

  /** Every module of the tree with the prefix of its names, this one first. */
  private *tree(prefix: string): Generator<[string, Module]> {
    yield [prefix, this];
    for (const [name, module] of this.children) yield* module.tree(`${prefix}${name}.`);
  }

  *namedParameters(prefix = ''): Generator<[string, Tensor]> {
    for (const [name, { tensor, trainable }] of this.entries(prefix)) if (trainable) yield [name, tensor];
  }

  *namedBuffers(prefix = ''): Generator<[string, Tensor]> {
    for (const [name, { tensor, trainable }] of this.entries(prefix)) if (!trainable) yield [name, tensor];
  }

  /** Parameters and buffers by name. Known without any memory. */
  stateShapes(): Map<string, Shape> {
    return new Map([...this.entries('')].map(([name, { tensor }]) => [name, tensor.shape]));
  }

  /** Trained numbers, buffers not counted. */
  parameterCount(): number {
    let count = 0;
    for (const [, { tensor }] of this.entries('')) count += sizeOf(tensor.shape);
    for (const [, tensor] of this.namedBuffers()) count -= sizeOf(tensor.shape);
    return count;
  }

  get frozen(): boolean {
    return this.packedAs !== undefined;
  }

  /** Draws all initial values. The value of a parameter depends on the seed and its name only. */
  initialize(seed: number): this {
    for (const [name, { tensor, init }] of this.entries('')) {
      const values = new Float32Array(tensor.size);
      init(values, new Draws(seed, name));
      tensor.write(values);
    }
    return this;
  }

  /** @throws InfinityError CHECKPOINT_CONFIG_MISMATCH naming the first tensor that is missing, unknown or of another shape */
  checkState(shapes: ReadonlyMap<string, Shape>, ignore: (name: string) => boolean = () => false): void {
    const expected = this.stateShapes();
    for (const [name, shape] of expected) {
      const found = shapes.get(name);
      if (!found || found.length !== shape.length || found.some((n, i) => n !== shape[i])) mismatch(name, shape, found);
    }
    for (const [name, found] of shapes) if (!expected.has(name) && !ignore(name)) mismatch(name, undefined, found);
  }

  /**
   * Copies a whole state dict to the device.
   * @throws InfinityError CHECKPOINT_CONFIG_MISMATCH before anything is changed
   */
  load(state: StateDict, { ignore, freeze }: LoadOptions = {}): this {
    this.checkState(new Map([...state].map(([name, { shape }]) => [name, shape])), ignore);
    for (const [prefix, module] of this.tree('')) {
      for (const [name, { tensor }] of module.slots) tensor.write(state.get(prefix + name)!.data);
      if (freeze) module.freezeOwn(freeze);
    }
    return this;
  }

  /**
   * Reads weights one by one; with `freeze` each module is packed before the next is read.
   * @throws InfinityError CHECKPOINT_CONFIG_MISMATCH before anything is changed
   */
  async loadFrom(source: WeightSource, { ignore, freeze }: LoadOptions = {}): Promise<this> {
    this.checkState(source.shapes, ignore);
    for (const [prefix, module] of this.tree('')) {
      for (const [name, { tensor }] of module.slots) tensor.write(await source.read(prefix + name));
      if (freeze) module.freezeOwn(freeze);
    }
    return this;
  }

  /** The state dict as arrays on the host. @throws InfinityError DISPOSED after `freeze` */
  async stateDict(): Promise<Map<string, HostTensor>> {
    const entries = [...this.entries('')].map(
      async ([name, { tensor }]): Promise<[string, HostTensor]> => [
        name,
        { shape: tensor.shape, data: Float32Array.from(await tensor.readFloats()) },
      ],
    );
    return new Map(await Promise.all(entries));
  }

  /** Prepares for inference: matrices move into the layout of their kernels and the originals are dropped. One way. */
  freeze(format: WeightFormat = 'f32'): this {
    for (const [, module] of this.tree('')) module.freezeOwn(format);
    return this;
  }

  private freezeOwn(format: WeightFormat): void {
    if (this.packedAs) return;
    this.packedAs = format;
    unscoped(() => this.pack(format));
  }

  /** What `freeze` does to this module's own tensors, its children excluded. */
  protected pack(_format: WeightFormat): void {}

  /** Releases all memory of the tree. Harmless when repeated. */
  dispose(): void {
    for (const { tensor } of this.slots.values()) tensor.dispose();
    for (const module of this.children.values()) module.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function mismatch(tensor: string, expected: Shape | undefined, found: Shape | undefined): never {
  const text = (shape: Shape | undefined) => (shape ? `[${shape.join(', ')}]` : 'nothing');
  throw new InfinityError(
    'CHECKPOINT_CONFIG_MISMATCH',
    `Expected ${text(expected)} for tensor "${tensor}" but received ${text(found)}.`,
    {
      value: tensor,
      fields: { tensor, expected: expected ?? null, found: found ?? null },
      cure: 'Check that the weights and the configuration belong together.',
    },
  );
}
