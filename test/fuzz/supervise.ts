/** Runs a reader's files in a process of their own, which may crash or hang without anybody else noticing. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { Summary, WorkerLine } from './worker.js';

export interface FuzzRun {
  readonly reader: string;
  readonly seed: number;
  readonly start: number;
  readonly count: number;
  /** Read this file instead of making some. */
  readonly file?: string;
  /** Module that exports `targets`. */
  readonly targets?: string;
  /** Milliseconds of silence after which a reader counts as hanging. */
  readonly patience?: number;
  readonly onProgress?: (index: number) => void;
}

export interface Failure {
  readonly index: number;
  readonly what: string;
}

export interface FuzzReport extends Summary {
  readonly failures: readonly Failure[];
}

const PATIENCE = 20_000;
/** Compiling what the worker imports is slow on a busy machine. */
const START_PATIENCE = 300_000;
const MAX_FAILURES = 20;
// A small nursery keeps garbage out of the measurement of memory; a small heap lets a bomb explode early.
const FLAGS = ['--max-semi-space-size=1', '--max-old-space-size=512', '--import', 'tsx'];

interface Life {
  readonly summary: Summary | undefined;
  readonly failures: readonly Failure[];
  readonly last: number;
  readonly end: string;
}

function startWorker(run: FuzzRun, start: number): ChildProcess {
  const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));
  const { reader, seed, count, file, targets = here('./targets/index.ts') } = run;
  const work = file === undefined ? [seed, start, run.start + count - start].map(String) : [file];
  const args = [...FLAGS, here('./worker.ts'), targets, reader, ...work];
  return spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit', 'pipe'] });
}

/** One process from `start` to its end, whatever that is. */
async function live(run: FuzzRun, start: number): Promise<Life> {
  const child = startWorker(run, start);
  const failures: Failure[] = [];
  let summary: Summary | undefined;
  let last = start - 1;
  let hangs = false;
  const kill = () => {
    hangs = true;
    child.kill('SIGKILL');
  };
  let timer = setTimeout(kill, START_PATIENCE);
  createInterface({ input: child.stdout! }).on('line', (line) => {
    const { failure, done } = JSON.parse(line) as WorkerLine;
    if (failure) failures.push(failure);
    summary = done ?? summary;
  });
  let pending = Buffer.alloc(0);
  (child.stdio[3] as Readable).on('data', (bytes: Buffer) => {
    clearTimeout(timer);
    timer = setTimeout(kill, run.patience ?? PATIENCE);
    pending = Buffer.concat([pending, bytes]);
    const whole = pending.length - (pending.length % 4);
    if (whole > 0) last = pending.readUInt32LE(whole - 4);
    pending = pending.subarray(whole);
    run.onProgress?.(last);
  });
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  clearTimeout(timer);
  return { summary, failures, last, end: hangs ? 'hangs' : `ended its process (${signal ?? code})` };
}

/** Reads all files of a run; a process that crashes or hangs is replaced by one that begins behind the file it died of. */
export async function fuzz(run: FuzzRun): Promise<FuzzReport> {
  const failures: Failure[] = [];
  let [accepted, slowest, memory] = [0, 0, 0];
  for (let start = run.start; start < run.start + run.count && failures.length < MAX_FAILURES; ) {
    const { summary, failures: found, last, end } = await live(run, start);
    failures.push(...found);
    if (summary) {
      accepted += summary.accepted;
      slowest = Math.max(slowest, summary.slowest);
      memory = Math.max(memory, summary.memory);
      break;
    }
    if (last < start) throw new Error(`The worker of ${run.reader} ${end} before its first file.`);
    failures.push({ index: last, what: end });
    start = last + 1;
  }
  return { count: run.count, accepted, slowest, memory, failures };
}
