/**
 * Networks as trees of named parameters. Names are the official dotted ones, so a state dict of a module is a state dict of
 * the reference. Nothing is allocated until `load` or `initialize`.
 */
import { Device } from '../device.js';
import { InfinityError } from '../errors.js';
import { statistic } from '../ops/run.js';
import { type DType, type Shape, sizeOf, Tensor, unscoped } from '../tensor.js';
import { Draws, type Init } from './init.js';
import { type Mismatch, refuseState } from './state_mismatch.js';

/** A tensor of a state dict on the host. */
export interface HostTensor {
  readonly shape: Shape;
  readonly data: Float32Array;
}
export type StateDict = ReadonlyMap<string, HostTensor>;

/** Weights that are read one at a time, for networks that do not fit twice into memory. */
export interface WeightSource {
  /** What the weights are called in messages: a file, and where in it. */
  readonly name?: string;
  readonly shapes: ReadonlyMap<string, Shape>;
  /** Tensors of the source that hold no weights, such as masks, with a description of each. */
  readonly others?: ReadonlyMap<string, string>;
  read(name: string): Promise<Float32Array>;
}

/** Names and shapes of a foreign state: what a network is compared with. */
export type StateShapes = Pick<WeightSource, 'name' | 'shapes' | 'others'>;

/** Uploads that may wait in the queue, and memory that may be kept for reuse, while weights are read: both would add up. */
const STAGED_BYTES = 1 << 26;
/** The same as a share of the network: each pause costs time. */
const STAGED_SHARE = 0.015;

/** How a network takes its weights. */
export interface LoadOptions {
  /** Pack the weights as they arrive (see `freeze`). */
  readonly freeze?: WeightFormat | undefined;
  /** Stops between two tensors. */
  readonly signal?: AbortSignal | undefined;
}

export interface ReadOptions extends LoadOptions {
  /** Tensors that keep the values they have, whatever the weights hold under their names. */
  readonly keep?: ReadonlySet<string> | undefined;
}

/** Storage of a frozen network's matrices: `bf16` halves the memory. Arithmetic follows the type of the activations. */
export type WeightFormat = 'f32' | 'bf16';

interface Slot {
  readonly tensor: Tensor;
  readonly init: Init;
  readonly trainable: boolean;
}

/** Where the modules that are being constructed live, and in which type. */
export interface Placement {
  readonly device?: Device;
  /**
   * Of activations. f64 makes a reference network: every op then runs in double precision. bf16, on a card, leaves the parameters
   * in f32 and rounds them where they meet activations; `freeze` then keeps matrices in bf16.
   */
  readonly dtype?: Extract<DType, 'f32' | 'f64' | 'bf16'>;
}

/** Called with the name and value of an activation, for comparison with a reference; the value lives until the call returns. */
export type Tap = (name: string, value: Tensor) => void;

let placement: Placement = {};

/** Modules that `fn` constructs live on this device and in this type. */
export function placed<T>(where: Placement, fn: () => T): T {
  const before = placement;
  placement = { ...before, ...where };
  try {
    const { device, dtype } = placement;
    if (dtype === 'bf16' && (device ?? Device.default()).kind !== 'cuda')
      throw new InfinityError('UNSUPPORTED_DTYPE', 'The processor computes in f32; only a card computes in bf16.', {
        value: dtype,
        cure: "Use device 'cuda', or keep the weights alone in bf16.",
      });
    return fn();
  } finally {
    placement = before;
  }
}

/** A network or a part of one: its own tensors and its children, by name. */
export class Module {
  readonly device = placement.device ?? Device.default();
  readonly dtype = placement.dtype ?? 'f32';
  private readonly slots = new Map<string, Slot>();
  private readonly children: [name: string, module: Module][] = [];
  private readonly kept: { dispose(): void }[] = [];
  private packedAs: WeightFormat | undefined;
  private seed = 0;

  /** Registers a trained tensor under `name`, which may be dotted ("ca.mat_q"). */
  protected parameter(name: string, shape: Shape, init: Init): Tensor {
    return this.register(name, shape, init, true);
  }

  /** Registers a tensor without gradient that is part of the state dict. */
  protected buffer(name: string, shape: Shape, init: Init): Tensor {
    return this.register(name, shape, init, false);
  }

  /** Registers a module below `name`; with the empty name its tensors stand beside this module's own. */
  protected child<M extends Module>(name: string, module: M): M {
    if (name) this.refuseTaken(name);
    this.children.push([name ? `${name}.` : '', module]);
    return module;
  }

  private register(name: string, shape: Shape, init: Init, trainable: boolean): Tensor {
    this.refuseTaken(name);
    const tensor = unscoped(() => Tensor.declare(shape, statistic(this), this.device));
    this.slots.set(name, { tensor, init, trainable });
    return tensor;
  }

  private refuseTaken(name: string): void {
    if (this.slots.has(name) || this.children.some(([child]) => child === `${name}.`))
      throw new InfinityError('INTERNAL', `The name '${name}' was registered twice in one module.`, { value: name });
  }

  private *entries(prefix: string): Generator<[string, Slot]> {
    for (const [name, slot] of this.slots) yield [prefix + name, slot];
    for (const [name, module] of this.children) yield* module.entries(prefix + name);
  }

  /** Every module of the tree with the prefix of its names, this one first. */
  private *tree(prefix: string): Generator<[string, Module]> {
    yield [prefix, this];
    for (const [name, module] of this.children) yield* module.tree(prefix + name);
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
    this.seed = seed;
    for (const [name, slot] of this.entries('')) slot.tensor.write(initialValues(name, slot, seed));
    return this;
  }

  /** Names of a foreign state that belong to no parameter and are no mistake. */
  protected ignores(_name: string): boolean {
    return false;
  }

  /** Under which name a foreign state holds parameter `name`. */
  protected sourceName(name: string, _shapes: ReadonlyMap<string, Shape>): string {
    return name;
  }

  /** Parameters whose number of rows may differ: they are cut, or completed with the initial rows of this network. */
  protected adaptsRows(_name: string): boolean {
    return false;
  }

  /** The configuration's options that decide whether a tensor exists and what shape it has, for messages. */
  protected optionOf(_name: string, _missing: boolean): string | undefined {
    return undefined;
  }

  /**
   * Under which name the foreign state holds each of this network's tensors.
   *
   * @param keep tensors that are left out, on both sides
   * @throws InfinityError CHECKPOINT_CONFIG_MISMATCH listing every tensor that is missing, unknown or of another shape with
   *   the option that decides it, what was expected and what was found (`fields.mismatches`)
   */
  matchState(state: StateShapes, keep?: ReadonlySet<string>): ReadonlyMap<string, string> {
    const { shapes, others } = state;
    const sources = new Map<string, string>();
    const [other, missing]: [Mismatch[], Mismatch[]] = [[], []];
    const kept = new Set<string>();
    for (const [tensor, { tensor: own }] of this.entries('')) {
      const from = this.sourceName(tensor, shapes);
      if (keep?.has(tensor)) {
        kept.add(from);
        continue;
      }
      const found = shapes.get(from);
      const firstAxis = this.adaptsRows(tensor) ? 1 : 0;
      const fits = found?.length === own.rank && found.every((n, i) => i < firstAxis || n === own.shape[i]);
      const there = found ?? others?.get(from);
      const line = { tensor, option: this.optionOf(tensor, !there), expected: own.shape, found: there };
      if (!fits) (there ? other : missing).push(line);
      sources.set(tensor, from);
    }
    const used = new Set([...sources.values(), ...kept]);
    for (const [tensor, found] of shapes)
      if (!used.has(tensor) && !this.ignores(tensor))
        other.push({ tensor, option: this.optionOf(tensor, false), expected: undefined, found });
    // What is there tells more than what is not.
    if (other.length + missing.length > 0) refuseState([...other, ...missing], state.name);
    return sources;
  }

  private fill(name: string, slot: Slot, values: Float32Array): void {
    const rows = values.length === slot.tensor.size ? values : initialValues(name, slot, this.seed);
    if (rows !== values) rows.set(values.subarray(0, rows.length));
    slot.tensor.write(rows);
  }

  /**
   * Copies a whole state dict to the device.
   * @throws InfinityError CHECKPOINT_CONFIG_MISMATCH before anything is changed
   */
  load(state: StateDict, { freeze }: LoadOptions = {}): this {
    const sources = this.matchState({ shapes: new Map([...state].map(([name, { shape }]) => [name, shape])) });
    for (const [prefix, module] of this.tree('')) {
      for (const [own, slot] of module.slots)
        this.fill(prefix + own, slot, state.get(sources.get(prefix + own)!)!.data);
      if (freeze) module.freezeOwn(freeze);
    }
    return this;
  }

  /**
   * Reads weights one by one; with `freeze` each module is packed before the next is read, so that the memory in use never
   * exceeds that of the network by more than a few copies of its largest tensor and the uploads between two pauses.
   * @throws InfinityError CHECKPOINT_CONFIG_MISMATCH before anything is changed; the signal's reason
   */
  async loadFrom(source: WeightSource, { freeze, signal, keep }: ReadOptions = {}): Promise<this> {
    const sources = this.matchState(source, keep);
    let bytes = 0;
    for (const [, { tensor }] of this.entries('')) bytes += tensor.bytes;
    const limit = Math.max(STAGED_BYTES, STAGED_SHARE * bytes);
    let staged = 0;
    for (const [prefix, module] of this.tree('')) {
      for (const [own, slot] of module.slots) {
        signal?.throwIfAborted();
        const name = prefix + own;
        const from = sources.get(name);
        if (from === undefined) continue;
        this.fill(name, slot, await source.read(from));
        staged += slot.tensor.bytes;
        if (staged < limit) continue;
        await this.device.sync();
        this.device.trim();
        staged = 0;
      }
      if (freeze) module.freezeOwn(freeze);
    }
    return this;
  }

  /**
   * Takes the memory of all weights in the order of `loadFrom`, without any contents: on a dry device this tells what loading
   * would take.
   */
  reserve({ freeze }: LoadOptions = {}): this {
    for (const [, module] of this.tree('')) {
      for (const { tensor } of module.slots.values()) tensor.take();
      if (freeze) module.freezeOwn(freeze);
    }
    return this;
  }

  /** Releases all weights and forgets that they were packed: the network can be loaded, and frozen, again. */
  unload(): void {
    for (const [, module] of this.tree('')) {
      for (const { tensor } of module.slots.values()) tensor.redeclare();
      for (const resource of module.kept.splice(0)) resource.dispose();
      module.packedAs = undefined;
    }
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
    unscoped(() => this.pack(this.dtype === 'bf16' ? 'bf16' : format));
  }

  /** What `freeze` does to this module's own tensors, its children excluded. */
  protected pack(_format: WeightFormat): void {}

  /** Disposes `resource` together with this module. */
  protected keep<T extends { dispose(): void }>(resource: T): T {
    this.kept.push(resource);
    return resource;
  }

  /** Releases all memory of the tree. Harmless when repeated. */
  dispose(): void {
    for (const { tensor } of this.slots.values()) tensor.dispose();
    for (const resource of this.kept.splice(0)) resource.dispose();
    for (const [, module] of this.children) module.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function initialValues(name: string, { tensor, init }: Slot, seed: number): Float32Array {
  const values = new Float32Array(tensor.size);
  init(values, new Draws(seed, name));
  return values;
}
