/** How times on a card are taken, and what they are held against. */
import { Device, type DeviceOptions } from '../../lib/device.js';
import type { Module } from '../../lib/nn/module.js';
import { scale } from '../../lib/ops/elementwise.js';
import { Op } from '../../lib/ops/generated.js';
import { linear } from '../../lib/ops/linear.js';
import { normal } from '../../lib/ops/random.js';
import { run } from '../../lib/ops/run.js';
import { cast } from '../../lib/ops/shape.js';
import { type Shape, scope, type Tensor } from '../../lib/tensor.js';
import { milliseconds, type Row, round, type Timing, timeInTurns } from '../harness.js';
import type { Cases } from './cases.js';

/** What a card can do at most, measured before anything else. */
export interface Ceilings {
  /** Bytes read and written a second by a long copy. */
  readonly bandwidth: number;
  /** Operations a second of a large square product of bf16. */
  readonly rate: number;
}

/** What must be done at least: operations of products, and bytes that are read or written once. */
export interface Work {
  readonly flops?: number;
  readonly bytes?: number;
}

/** A set of operands, and what is done with it. */
export interface Prepared {
  readonly operands: readonly Tensor[];
  readonly call: () => unknown;
}

/** A call, measured over several sets of operands where one set would stay in the cache. */
export interface CardJob extends Work {
  readonly name: string;
  readonly prepare: (device: Device) => Prepared;
  /** Bytes of a set, for the choice of how many there are. */
  readonly setBytes: number;
}

/** Bytes of a number of bf16. */
export const HALF = 2;

/** What a case becomes: everything but its name. */
export type Job = Omit<CardJob, 'name' | 'setBytes'> & { readonly bytes: number };

/** More than the second level of any card holds. */
const CACHE_BYTES = 2 ** 27;
const MOST_SETS = 8;

/** Normal numbers of standard deviation 1 or another, made on the card. */
export function randomOn(device: Device, shape: Shape, dtype: 'f32' | 'bf16' = 'bf16', std = 1): Tensor {
  return scope(() => cast(normal(shape, { seed: 1, stream: shape.length, std, device }), dtype));
}

/** Fills a network with small numbers on its device. */
export function randomise(module: Module): void {
  for (const [, tensor] of [...module.namedParameters(), ...module.namedBuffers()]) {
    tensor.take();
    run(Op.normal, [null], [tensor], [1, 0, 0, 0, 0, 0, 0.02, -0.1, 0.1]);
  }
}

/** Of each part what bounds it, its operations or its bytes, and the sums of both over the parts. */
function boundsOf(parts: readonly Work[], { bandwidth, rate }: Ceilings): Required<Work> {
  const sums = { flops: 0, bytes: 0 };
  for (const { flops = 0, bytes = 0 } of parts)
    if (flops * bandwidth >= bytes * rate) sums.flops += flops;
    else sums.bytes += bytes;
  return sums;
}

/** Seconds that parts take at least, one behind the other, of which operations bound some and bytes the others. */
export function floorOf({ flops, bytes }: Required<Work>, { bandwidth, rate }: Ceilings): number {
  return (flops > 0 ? flops / rate : 0) + (bytes > 0 ? bytes / bandwidth : 0);
}

/** The columns that say how near to the floor a time is: `gflop` of the parts that arithmetic bounds, `mbyte` of the others. */
export function againstFloor(
  work: Work | readonly Work[],
  { median }: Pick<Timing, 'median'>,
  ceilings: Ceilings,
): Row {
  const bounds = boundsOf(Array.isArray(work) ? work : [work], ceilings);
  const floor = floorOf(bounds, ceilings);
  return {
    gflop: round(bounds.flops / 1e9, 3),
    mbyte: round(bounds.bytes / 1e6, 3),
    floor_ms: round(floor * 1e3, 4),
    fraction: round(floor / median, 3),
  };
}

/** Kernels that the card was given for `work`, and the bytes of tensors beside those that were there. */
export async function launchesAndPeak(device: Device, work: () => unknown): Promise<Row> {
  await device.sync();
  const before = device.resetPeak();
  await work();
  await device.sync();
  const { launches, peakBytes } = device.stats();
  return {
    launches: launches - before.launches,
    peak_mib: round(peakBytes / 2 ** 20),
    beside_mib: round((peakBytes - before.liveBytes) / 2 ** 20),
  };
}

/** Times calls that are queued one behind the other, until the queue is empty: median and spread of several batches of calls. */
export async function measureJob(device: Device, job: CardJob, rounds: number): Promise<{ time: Timing; row: Row }> {
  const count = Math.max(1, Math.min(MOST_SETS, Math.ceil(CACHE_BYTES / job.setBytes)));
  const sets = Array.from({ length: count }, () => scope(() => job.prepare(device)));
  const first = () =>
    scope(() => {
      sets[0]!.call();
    });
  first();
  const row = await launchesAndPeak(device, first);
  let turn = 0;
  const call = () => sets[turn++ % count]!.call();
  const [time] = await timeInTurns([{ device, call }], rounds);
  for (const { operands } of sets) for (const t of operands) t.dispose();
  await device.sync();
  device.trim();
  return { time: time!, row: { ...milliseconds(time!, 4), sets: count, ...row } };
}

/** Opens the card and measures its ceilings. */
export async function openCard(
  cases: Cases,
  options: DeviceOptions = {},
): Promise<{ device: Device; ceilings: Ceilings; rows: Row[] }> {
  const device = Device.create('cuda', options);
  const { copy_mib, product: n, rounds } = cases;
  const [copied, flops] = [copy_mib * 2 ** 20, 2 * n ** 3];
  const copy: CardJob = {
    name: `copy of ${copy_mib / 2} MiB`,
    bytes: copied,
    setBytes: copied,
    prepare: (on) => {
      const x = randomOn(on, [copied / 8], 'f32');
      return { operands: [x], call: () => scale(x, 1) };
    },
  };
  const product: CardJob = {
    name: `product ${n}x${n}x${n}`,
    flops,
    setBytes: 4 * n ** 2,
    prepare: (on) => {
      const [x, w] = [randomOn(on, [n, n]), randomOn(on, [n, n])];
      return { operands: [x, w], call: () => linear(x, w) };
    },
  };
  const measured = [await measureJob(device, copy, rounds), await measureJob(device, product, rounds)] as const;
  const ceilings = { bandwidth: copied / measured[0].time.median, rate: flops / measured[1].time.median };
  const rows = [copy, product].map((job, i) => ({
    name: job.name,
    ...measured[i]!.row,
    ...againstFloor(job, measured[i]!.time, ceilings),
  }));
  return { device, ceilings, rows };
}
