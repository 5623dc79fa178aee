/**
 * Commands that are recorded once and run as often as wanted: nothing is checked, planned or allocated again, and on a card
 * they are one graph. Whatever changes from run to run is read from tensors that are written in between.
 */
import type { CountedMemory, Device, ProgramMemory } from './device.js';
import { ProgramAction } from './native.js';

/** Programs that run in the order of their recording may share it: what one no longer needs serves the next. */
class SharedMemory implements ProgramMemory {
  private readonly held = new Set<CountedMemory>();
  private programs = 0;

  hold(memory: CountedMemory): void {
    if (this.held.has(memory)) return;
    memory.retain();
    this.held.add(memory);
  }

  join(): void {
    this.programs++;
  }

  leave(): void {
    if (--this.programs > 0) return;
    for (const memory of this.held) memory.release();
    this.held.clear();
  }
}

/**
 * A recorded sequence of commands. Tensors that were made while it was recorded are written again by every run; those that it
 * reads and did not make stay in memory until it is disposed.
 */
export class Program {
  private readonly memory: SharedMemory;
  private readonly id: number;
  private live = true;

  /** @param after a program that always runs before this one: they share memory */
  constructor(
    private readonly device: Device,
    after?: Program,
  ) {
    this.id = device.programCall(ProgramAction.create, after?.id ?? 0);
    this.memory = after?.memory ?? new SharedMemory();
    this.memory.join();
  }

  /** Bytes that this program and those it shares memory with have taken. */
  get bytes(): number {
    return this.device.programCall(ProgramAction.bytes, this.id);
  }

  /**
   * Adds the commands that `fn` submits, synchronously, without running them.
   * @throws InfinityError INVALID_ARGUMENT when the program has run, or when `fn` uploads, reads or waits
   */
  record<T>(fn: () => T): T {
    return this.device.recordInto(this.id, this.memory, fn);
  }

  /** Runs all commands in the order of their recording, under the current token. Waits for nothing. */
  run(): void {
    this.device.programCall(ProgramAction.run, this.id);
  }

  /** Releases its memory. Tensors made in it keep their contents until they are disposed too. Harmless when repeated. */
  dispose(): void {
    if (!this.live) return;
    this.live = false;
    if (!this.device.closed) this.device.programCall(ProgramAction.release, this.id);
    this.memory.leave();
  }
}
