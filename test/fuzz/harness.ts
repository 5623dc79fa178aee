/** One file through one reader: what comes out of it, how long it takes, and what it costs. */
import { getHeapStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { InfinityError } from '../../lib/errors.js';
import { mutateBytes } from './mutate.js';
import { Random } from './random.js';
import type { FuzzTarget } from './target.js';

export interface Limits {
  /** Of processor time for one file: a busy machine makes no reader slow. */
  readonly milliseconds: number;
  /** Bytes of memory for one byte of a file, garbage included. */
  readonly memory: number;
  /** Bytes that any file may take: the error with its stack, and garbage that nobody has collected yet. */
  readonly free: number;
}

export const LIMITS: Limits = { milliseconds: 1000, memory: 10, free: 4 << 20 };

export interface Outcome {
  readonly accepted: boolean;
  readonly milliseconds: number;
  /** Heap and external memory, garbage included. */
  readonly memory: number;
  readonly bytes: number;
}

/** What no file may do to a reader. */
export class FuzzFailure extends Error {
  override readonly name = 'FuzzFailure';
}

/** The file of an index: the first ones are the seeds themselves. */
export function fuzzedFile(target: FuzzTarget, seeds: readonly Uint8Array[], seed: number, index: number): Uint8Array {
  if (index < seeds.length) return seeds[index]!;
  const random = new Random(target.name, seed, index);
  let file = random.pick(seeds);
  if (target.mutate && random.chance(0.5)) file = target.mutate(random, file);
  if (!target.mutate || random.chance(0.5)) file = mutateBytes(random, file, seeds);
  return target.repair && random.chance(0.5) ? target.repair(file) : file;
}

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

function memoryInUse(): number {
  const { used_heap_size: heap, external_memory: external } = getHeapStatistics();
  return heap + external;
}

async function measure(target: FuzzTarget, file: Uint8Array): Promise<Outcome> {
  // A reader that changed its input would spoil the next one; a file in a buffer of its own also shows reads beyond its end.
  const own = Uint8Array.from(file);
  const before = memoryInUse();
  const begin = process.cpuUsage();
  let accepted = true;
  let check: (() => void) | undefined;
  try {
    const pending = target.read(own);
    check = (pending instanceof Promise ? await pending : pending) ?? undefined;
  } catch (error) {
    accepted = false;
    if (!(error instanceof InfinityError) || error.code === 'INTERNAL' || error.message === '')
      throw new FuzzFailure(`threw ${error instanceof Error ? error.stack : String(error)}`);
  }
  const { user, system } = process.cpuUsage(begin);
  const milliseconds = (user + system) / 1000;
  const memory = memoryInUse() - before;
  try {
    check?.();
  } catch (error) {
    throw new FuzzFailure(`gave a wrong answer: ${error instanceof Error ? error.stack : String(error)}`);
  }
  return { accepted, milliseconds, memory, bytes: file.byteLength };
}

function excessOf({ milliseconds, memory, bytes }: Outcome, limits: Limits): string | undefined {
  if (milliseconds > limits.milliseconds) return `took ${Math.round(milliseconds)} ms`;
  if (memory > Math.max(limits.free, limits.memory * bytes))
    return `took ${memory} bytes of memory for a file of ${bytes}`;
  return undefined;
}

/**
 * Reads a file and judges what happened. Time and memory must be exceeded twice, the second time after a collection of
 * garbage, because neighbours on the machine are not the reader's fault.
 *
 * @throws FuzzFailure
 */
export async function judge(target: FuzzTarget, file: Uint8Array, limits = LIMITS): Promise<Outcome> {
  const outcome = await measure(target, file);
  if (excessOf(outcome, limits) === undefined) return outcome;
  collectGarbage();
  const again = await measure(target, file);
  const excess = excessOf(again, limits);
  if (excess !== undefined) throw new FuzzFailure(excess);
  return again;
}
