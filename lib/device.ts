/** A device: one in-order queue, its memory and its cancel tokens. */
import { InfinityError, invalidArgument, isOutOfMemory } from './errors.js';
import {
  cudaLibrary,
  type NativeAddon,
  type NativeStats,
  native,
  ProgramAction,
  TokenAction,
  toInfinityError,
} from './native.js';

/** The processor, or an NVIDIA card. */
export type DeviceKind = 'cpu' | 'cuda';

/** A way that matrix products and attentions go on a card: our kernels for every card, those for compute capability 9.0, or cuBLASLt. */
export type ProductRoute = 'fragments' | 'warpgroups' | 'cublaslt';

export interface DeviceOptions {
  /** Number of the card, for 'cuda'; default 0. */
  readonly card?: number;
  /**
   * With false, a card takes for each matrix product and each attention whichever way it measured to be the fastest when it met the
   * first of that shape, cuBLASLt among them where the machine has it: results may then differ in their last digits from run to run, and between a row
   * alone and in a batch. The processor is deterministic either way. Default true.
   */
  readonly deterministic?: boolean;
  /** @internal One way for all products and attentions of a card that it can serve, for tests and benchmarks. */
  readonly products?: ProductRoute;
  /** Threads of the CPU pool; by default NODE_INFINITY_THREADS, else the processors of this process. */
  readonly threads?: number;
  /** Instruction set: generic, avx2, avx512 or neon; by default NODE_INFINITY_CPU_ISA, else the best. */
  readonly isa?: string;
  /** Bytes of tensor memory; by default NODE_INFINITY_MEMORY_LIMIT, else 80 % of what the container allows, 95 % of a card. */
  readonly memoryLimit?: number;
  /**
   * Commands are checked, planned and counted, but nothing is computed and no memory is taken: `stats` then tells what the same work
   * would take. Reads give zeros, the limit is told but does not hold. Default false.
   */
  readonly dry?: boolean;
}

/** Operands and parameters of a command at most, as in native/core/device.cc. */
export const MAX_OPERANDS = 384;
const MAX_PARAMS = 64;
/** Words of the submission buffer: head, operands of rank 6, parameters. */
const SUBMIT_WORDS = 5 + MAX_OPERANDS * 11 + MAX_PARAMS;

/** Memory whose lifetime is counted. @internal */
export interface CountedMemory {
  retain(): unknown;
  release(): void;
}

/** The memory of a program that is being recorded: what it takes is its own, what it reads besides stays alive with it. @internal */
export interface ProgramMemory {
  hold(memory: CountedMemory): void;
}

/** Groups the commands of one request, so that they can be cancelled together. */
export class CancelToken {
  private released = false;
  /** @internal */
  constructor(
    private readonly device: Device,
    readonly id: number,
  ) {}

  /** Commands of this token that have not run are skipped; its pending reads reject with code ABORTED. */
  cancel(): void {
    if (!this.released && !this.device.closed) this.device.tokenCall(TokenAction.cancel, this.id);
  }

  /** Ends the token; its commands still run unless it was cancelled. Harmless when repeated. */
  release(): void {
    if (this.released) return;
    this.released = true;
    if (!this.device.closed) this.device.tokenCall(TokenAction.release, this.id);
  }
}

/**
 * Runs commands in the order of their submission, on threads of its own. Submitting never waits; `read` of a tensor and `sync` do.
 */
export class Device {
  /** @internal The command being written; see native/core/device.cc for the layout. */
  readonly words = new Uint32Array(SUBMIT_WORDS);
  /** @internal */
  readonly floats = new Float32Array(this.words.buffer);
  /** @internal */
  readonly ints = new Int32Array(this.words.buffer);
  /** @internal Of those who keep memory that work can do without: lets it go, and tells whether there was any. */
  readonly reserves = new Set<() => boolean>();
  /** See `DeviceOptions`. */
  readonly deterministic: boolean;
  private readonly addon: NativeAddon;
  private readonly id: number;
  private open = true;
  private currentToken = 0;
  private writing: { readonly program: number; readonly memory: ProgramMemory } | undefined;

  private constructor(
    readonly kind: DeviceKind,
    options: DeviceOptions,
  ) {
    this.deterministic = options.deterministic ?? true;
    this.addon = native();
    const library = kind === 'cuda' ? cudaLibrary() : undefined;
    try {
      this.id = this.addon.open(this.words, { kind, library, ...options });
    } catch (error) {
      throw toInfinityError(error);
    }
  }

  /**
   * Opens a device of its own. Most callers share `Device.default()`.
   * @throws InfinityError DEVICE_UNAVAILABLE, INVALID_ARGUMENT
   */
  static create(kind: DeviceKind = 'cpu', options: DeviceOptions = {}): Device {
    if (kind !== 'cpu' && kind !== 'cuda') invalidArgument('device', "'cpu' or 'cuda'", kind);
    const { threads, memoryLimit, card, deterministic } = options;
    if (deterministic !== undefined && typeof deterministic !== 'boolean')
      invalidArgument('deterministic', 'true or false', deterministic);
    if (card !== undefined && !(Number.isInteger(card) && card >= 0))
      invalidArgument('card', 'the number of a card, from 0', card);
    if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1 && threads <= 256))
      invalidArgument('threads', 'an integer from 1 to 256', threads);
    if (memoryLimit !== undefined && !(Number.isSafeInteger(memoryLimit) && memoryLimit > 0))
      invalidArgument('memoryLimit', 'a positive number of bytes', memoryLimit);
    return new Device(kind, options);
  }

  private static readonly shared = new Map<DeviceKind, Device>();
  private static preferred: DeviceKind = 'cpu';

  /** From now on `default()` means this kind; it is the processor before. */
  static prefer(kind: DeviceKind): void {
    Device.preferred = kind;
  }

  /**
   * The device of a kind that is shared by whoever is not given another: pipelines, new tensors, networks.
   * @throws InfinityError DEVICE_UNAVAILABLE
   */
  static default(kind: DeviceKind = Device.preferred): Device {
    let device = Device.shared.get(kind);
    if (!device || device.closed) {
      device = Device.create(kind);
      Device.shared.set(kind, device);
    }
    return device;
  }

  get closed(): boolean {
    return !this.open;
  }

  /** Skips what is waiting and joins the threads. Tensors of this device cannot be used afterwards. */
  close(): void {
    if (!this.open) return;
    this.open = false;
    this.addon.close(this.id);
  }

  /** Counters of this device, as of the commands submitted so far. */
  stats(): NativeStats {
    return this.addon.stats(this.live(), false);
  }

  /** The counters, and a new start for `peakBytes` from what lives now. */
  resetPeak(): NativeStats {
    return this.addon.stats(this.live(), true);
  }

  /** What a card decided for the matrix products and attentions that it met so far, a line each: what, its way and why. */
  decisions(): string[] {
    return this.addon.decisions(this.live()).split('\n').slice(0, -1);
  }

  /** Gives memory that is kept for later tensors back to the system. Blocks this thread while the queue works: `sync` first. */
  trim(): void {
    this.addon.trim(this.live());
  }

  /** Resolves when everything submitted so far has run; rejects with the first failure of the current token. */
  async sync(): Promise<void> {
    try {
      await this.addon.sync(this.live(), this.currentToken);
    } catch (error) {
      throw toInfinityError(error);
    }
  }

  /** A new token; release it when its request is done. */
  createToken(): CancelToken {
    return new CancelToken(this, this.tokenCall(TokenAction.create, 0));
  }

  /**
   * Commands that `fn` submits, synchronously, belong to `token`; with null to nobody, so that nothing cancels them and no
   * program that is being recorded takes them in.
   */
  withToken<T>(token: CancelToken | null, fn: () => T): T {
    if (!token && this.writing) return this.outsideOf(this.writing, () => this.withToken(null, fn));
    const previous = this.currentToken;
    this.currentToken = token?.id ?? 0;
    try {
      return fn();
    } finally {
      this.currentToken = previous;
    }
  }

  /** @internal The memory of the program that takes in what is submitted now. */
  get recording(): ProgramMemory | undefined {
    return this.writing?.memory;
  }

  /** @internal What `fn` submits, synchronously, becomes part of a program instead of being run. */
  recordInto<T>(program: number, memory: ProgramMemory, fn: () => T): T {
    this.programCall(ProgramAction.enter, program);
    this.writing = { program, memory };
    try {
      return fn();
    } finally {
      this.writing = undefined;
      this.programCall(ProgramAction.leave, 0);
    }
  }

  private outsideOf<T>(writing: { readonly program: number; readonly memory: ProgramMemory }, fn: () => T): T {
    this.writing = undefined;
    this.programCall(ProgramAction.leave, 0);
    try {
      return fn();
    } finally {
      this.programCall(ProgramAction.enter, writing.program);
      this.writing = writing;
    }
  }

  /** @internal */
  programCall(action: number, id: number): number {
    try {
      return this.addon.program(this.live(), action, id, this.currentToken);
    } catch (error) {
      throw toInfinityError(error);
    }
  }

  /** @internal */
  tokenCall(action: number, id: number): number {
    return this.addon.token(this.live(), action, id);
  }

  /** @internal Submits the command in `words`; the handles of its outputs take its place. */
  submit(): void {
    this.words[1] = this.currentToken;
    for (;;)
      try {
        this.addon.submit(this.live());
        return;
      } catch (error) {
        this.makeRoom(toInfinityError(error));
      }
  }

  /** @internal */
  alloc(bytes: number): number {
    for (;;)
      try {
        return this.addon.alloc(this.live(), bytes);
      } catch (error) {
        this.makeRoom(toInfinityError(error));
      }
  }

  /** Returns when what failed for want of memory may be tried again, and throws the failure otherwise. */
  private makeRoom(failure: unknown): void {
    let room = false;
    if (isOutOfMemory(failure)) for (const give of this.reserves) room = give() || room;
    if (!room) throw failure;
  }

  /** @internal */
  free(handle: number): void {
    if (this.open) this.addon.free(this.id, handle);
  }

  /** @internal */
  upload(handle: number, offset: number, bytes: Uint8Array): void {
    try {
      this.addon.upload(this.live(), this.currentToken, handle, offset, bytes);
    } catch (error) {
      throw toInfinityError(error);
    }
  }

  /** @internal */
  async read(handle: number, offset: number, into: Uint8Array): Promise<void> {
    try {
      await this.addon.read(this.live(), this.currentToken, handle, offset, into);
    } catch (error) {
      throw toInfinityError(error);
    }
  }

  private live(): number {
    if (!this.open)
      throw new InfinityError('DISPOSED', 'Expected an open device but received one that was closed.', {
        cure: 'Open another with Device.create().',
      });
    return this.id;
  }
}
