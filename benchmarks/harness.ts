/** What every benchmark shares: how a time is taken, and how a result is written for people and for machines. */
import { execFileSync } from 'node:child_process';
import { cpus } from 'node:os';
import type { Device } from '../lib/device.js';
import { scope } from '../lib/tensor.js';

export interface Timing {
  /** Seconds a call. */
  readonly best: number;
  readonly median: number;
}

/** Calls in one batch, so that a batch lasts about this long and the wait at its end does not count. */
const BATCH_SECONDS = 0.03;

/**
 * Seconds that each job takes on the device, measured in turns so that a busy moment of the machine touches all alike.
 * A job submits its work; the device is awaited after a batch of calls.
 */
export async function timeInTurns(device: Device, jobs: readonly (() => unknown)[], rounds = 7): Promise<Timing[]> {
  const batch = async (job: () => unknown, calls: number): Promise<number> => {
    const start = performance.now();
    for (let i = 0; i < calls; i++) {
      scope(() => {
        job();
      });
    }
    await device.sync();
    return (performance.now() - start) / 1000;
  };
  const calls: number[] = [];
  for (const job of jobs) {
    await batch(job, 1);
    const once = await batch(job, 2);
    calls.push(Math.max(1, Math.min(1000, Math.round((2 * BATCH_SECONDS) / once))));
  }
  const times: number[][] = jobs.map(() => []);
  for (let round = 0; round < rounds; round++)
    for (const [i, job] of jobs.entries()) times[i]!.push((await batch(job, calls[i]!)) / calls[i]!);
  return times.map((list) => {
    const sorted = list.toSorted((a, b) => a - b);
    return { best: sorted[0]!, median: sorted[sorted.length >> 1]! };
  });
}

let revision: string | undefined;

function gitRevision(): string {
  try {
    revision ??= execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8', stdio: 'pipe' }).trim();
  } catch {
    revision = 'none';
  }
  return revision;
}

export type Row = Readonly<Record<string, string | number>>;

/** One JSON line: the row, then git revision and machine class. */
export function jsonLine(row: Row): string {
  return JSON.stringify({
    ...row,
    revision: gitRevision(),
    machine: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
  });
}

/** The rows as a table with the columns of the first. */
export function table(rows: readonly Row[]): string {
  const columns = Object.keys(rows[0] ?? {});
  const cells = [columns, ...rows.map((row) => columns.map((c) => String(row[c] ?? '')))];
  const widths = columns.map((_, i) => Math.max(...cells.map((line) => line[i]!.length)));
  return cells.map((line) => line.map((cell, i) => cell.padEnd(widths[i]!)).join('  ')).join('\n');
}
