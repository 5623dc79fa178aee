/** What every benchmark shares: how a time is taken, and how a result is written for people and for machines. */
import { execFileSync } from 'node:child_process';
import { availableParallelism, cpus, loadavg } from 'node:os';
import { Device, type DeviceKind } from '../lib/device.js';
import { type Shape, scope, sizeOf, Tensor } from '../lib/tensor.js';

export interface BenchmarkOptions {
  /** Measure only what has this text in its name. */
  readonly filter?: string | undefined;
  /** Repetitions of each measurement; every benchmark has its own default. */
  readonly rounds?: number | undefined;
}

export interface CardOptions extends BenchmarkOptions {
  /** Tiny sizes: a rehearsal. */
  readonly short?: boolean;
}

/** One result. Every row of a benchmark names what was measured; figures carry their unit in the key. */
export type Row = Readonly<Record<string, string | number>>;

/** Seconds. */
export interface Timing {
  readonly best: number;
  readonly median: number;
  readonly p10: number;
  readonly p90: number;
}

export function summarize(seconds: readonly number[]): Timing {
  const sorted = seconds.toSorted((a, b) => a - b);
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!;
  return { best: sorted[0]!, median: at(0.5), p10: at(0.1), p90: at(0.9) };
}

/** The columns of a timing. */
export function milliseconds({ median, p10, p90 }: Timing, digits = 3): Row {
  const ms = (seconds: number): number => round(seconds * 1e3, digits);
  return { median_ms: ms(median), p10_ms: ms(p10), p90_ms: ms(p90) };
}

export function round(value: number, digits = 1): number {
  return Number(value.toFixed(digits));
}

/** Seconds that pass until `work` is done. */
export async function elapsed(work: () => unknown): Promise<number> {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1e3;
}

/** A tensor of numbers between -0.5 and 0.5. */
export function filled(device: Device, shape: Shape): Tensor {
  const data = new Float32Array(sizeOf(shape));
  let state = 1;
  for (let i = 0; i < data.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    data[i] = state / 2 ** 32;
  }
  return Tensor.from(data, shape, 'f32', device);
}

/** Calls in one batch, so that a batch lasts about this long and the wait at its end does not count. */
const BATCH_SECONDS = 0.02;

/** Work that is submitted to a device. */
export interface Job {
  readonly device: Device;
  call(): unknown;
}

async function batch({ device, call }: Job, calls: number): Promise<number> {
  const total = await elapsed(() => {
    for (let i = 0; i < calls; i++) {
      scope(() => {
        call();
      });
    }
    return device.sync();
  });
  return total / calls;
}

/**
 * Time of one call of each job, measured in turns so that a busy moment of the machine touches all alike. The device is
 * awaited after a batch of calls.
 */
export async function timeInTurns(jobs: readonly Job[], rounds = 5): Promise<Timing[]> {
  const calls: number[] = [];
  for (const job of jobs) {
    await batch(job, 1);
    calls.push(Math.max(1, Math.min(1000, Math.round(BATCH_SECONDS / (await batch(job, 2))))));
  }
  const times: number[][] = jobs.map(() => []);
  for (let i = 0; i < rounds; i++) for (const [j, job] of jobs.entries()) times[j]!.push(await batch(job, calls[j]!));
  return times.map(summarize);
}

function gitRevision(): string {
  try {
    const args = ['describe', '--always', '--dirty', '--exclude=*'];
    return execFileSync('git', args, { encoding: 'utf8', stdio: 'pipe' }).trim();
  } catch {
    return 'none';
  }
}

/** What a figure depends on besides the code that it measures. `load` tells whether the machine was quiet at the start. */
export function machine(kind: DeviceKind = 'cpu'): Row {
  const device = Device.create(kind, kind === 'cpu' ? { threads: 1 } : {});
  const { backend } = device.stats();
  device.close();
  return {
    revision: gitRevision(),
    machine: kind === 'cpu' ? (cpus()[0]?.model.trim() ?? 'unknown') : backend,
    cores: availableParallelism(),
    ...(kind === 'cpu' && { isa: backend }),
    node: process.versions.node,
    load: round(loadavg()[0]!, 2),
  };
}

/** The rows as a table; a column that a row does not have stays empty. */
export function table(rows: readonly Row[]): string {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const cells = [columns, ...rows.map((row) => columns.map((c) => String(row[c] ?? '')))];
  const widths = columns.map((_, i) => Math.max(...cells.map((line) => line[i]!.length)));
  return cells
    .map((line) =>
      line
        .map((cell, i) => cell.padEnd(widths[i]!))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
