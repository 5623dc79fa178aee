/**
 * The process that reads fuzzed files: `worker.ts TARGETS READER SEED START COUNT`, or a file's path after `READER`. It announces
 * every index on descriptor 3 before it touches the file, so that whoever waits knows which one it died of, and writes JSON lines.
 */
import { readFileSync, writeSync } from 'node:fs';
import { FuzzFailure, fuzzedFile, judge } from './harness.js';
import type { FuzzTarget } from './target.js';

const ANNOUNCEMENTS = 3;

export interface WorkerLine {
  readonly failure?: { readonly index: number; readonly what: string };
  readonly done?: Summary;
}

export interface Summary {
  readonly count: number;
  readonly accepted: number;
  /** Milliseconds of processor time. */
  readonly slowest: number;
  /** Largest memory of one file, in bytes. */
  readonly memory: number;
}

function write(line: WorkerLine): void {
  writeSync(1, `${JSON.stringify(line)}\n`);
}

async function run(): Promise<void> {
  const [module, reader, ...rest] = process.argv.slice(2);
  const { targets } = (await import(module!)) as { targets: readonly FuzzTarget[] };
  const target = targets.find(({ name }) => name === reader)!;
  const seeds = await target.seeds();
  const [seed, start, count] = rest.length === 1 ? [0, 0, 1] : (rest.map(Number) as [number, number, number]);
  const file = rest.length === 1 ? readFileSync(rest[0]!) : undefined;
  let [accepted, slowest, memory] = [0, 0, 0];
  const announcement = Buffer.alloc(4);
  for (let index = start; index < start + count; index++) {
    announcement.writeUInt32LE(index);
    writeSync(ANNOUNCEMENTS, announcement);
    try {
      const outcome = await judge(target, file ?? fuzzedFile(target, seeds, seed, index));
      accepted += Number(outcome.accepted);
      slowest = Math.max(slowest, outcome.milliseconds);
      memory = Math.max(memory, outcome.memory);
    } catch (error) {
      if (!(error instanceof FuzzFailure)) throw error;
      write({ failure: { index, what: error.message } });
    }
  }
  write({ done: { count, accepted, slowest, memory } });
}

await run();
