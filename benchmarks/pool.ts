/** What the thread pool keeps of one thread's speed while other processes spin on every processor but one. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { availableParallelism } from 'node:os';
import { Device } from '../lib/device.js';
import { linear, packLinear } from '../lib/ops/linear.js';
import { type BenchmarkOptions, filled, type Job, type Row, round, timeInTurns } from './harness.js';

const GOAL = 0.9;

/** [rows, out, in]: many small tiles, and products of a small transformer between which the threads meet again. */
const WORKLOADS = [
  [1024, 1024, 1024],
  [128, 768, 192],
] as const;

/** Ends by itself, should this process die before it can end it. */
const SPIN = `process.stdout.write('spinning'); const end = Date.now() + 120_000; while (Date.now() < end);`;

async function startSpinning(count: number): Promise<ChildProcess[]> {
  const children = Array.from({ length: count }, () =>
    spawn(process.execPath, ['-e', SPIN], { stdio: ['ignore', 'pipe', 'inherit'] }),
  );
  await Promise.all(children.map((child) => once(child.stdout!, 'data')));
  return children;
}

function product(device: Device, [M, N, K]: (typeof WORKLOADS)[number]): Job {
  const [x, w] = [filled(device, [M, K]), packLinear(filled(device, [N, K]))];
  return { device, call: () => linear(x, w) };
}

/**
 * `ratio` is the speed of two threads beside the spinning processes to that of one thread on the machine as it was;
 * `ratio_beside` to one thread beside them as well, which a shared physical core slows down.
 */
export async function* pool({ filter = '', rounds = 9 }: BenchmarkOptions): AsyncGenerator<Row> {
  const devices = [1, 2].map((threads) => Device.create('cpu', { threads }));
  for (const size of WORKLOADS) {
    const name = `linear packed ${size.join('x')}`;
    if (!name.includes(filter)) continue;
    const jobs = devices.map((device) => product(device, size));
    const speeds = async () => (await timeInTurns(jobs, rounds)).map(({ median }) => 1 / median) as [number, number];
    const alone = await speeds();
    const children = await startSpinning(Math.max(1, availableParallelism() - 1));
    let beside: [number, number];
    try {
      beside = await speeds();
    } finally {
      for (const child of children) child.kill('SIGKILL');
    }
    yield {
      name,
      spinning: children.length,
      one_thread_per_s: round(alone[0]),
      two_threads_per_s: round(alone[1]),
      one_thread_beside_per_s: round(beside[0]),
      two_threads_beside_per_s: round(beside[1]),
      ratio: round(beside[1] / alone[0], 3),
      ratio_beside: round(beside[1] / beside[0], 3),
      goal: GOAL,
    };
  }
  for (const device of devices) device.close();
}
