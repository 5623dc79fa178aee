/** `bench`: how fast this installation draws on this machine, from a cold start to warm pictures. */
import { cpus } from 'node:os';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import { Device } from '../device.js';
import { invalidArgument } from '../errors.js';
import { InfinityPipeline } from '../pipeline/index.js';
import { interruptSignal, numberOption, print } from './context.js';
import { addModelOptions, type ModelFlags, modelSource } from './model_options.js';

interface Flags extends ModelFlags {
  prompt: string;
  rounds: number;
  json?: boolean;
}

interface Measure {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
}

/** Value below which `share` of the sorted numbers lie. */
function quantile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!;
}

async function drawPng(pipe: InfinityPipeline, prompt: string, seed: number, signal: AbortSignal): Promise<number> {
  const begin = performance.now();
  const { images } = await pipe.generate(prompt, { seed, signal });
  await images[0]!.toBuffer('png');
  return performance.now() - begin;
}

/** Milliseconds under which 99 % of the event loop's delays stay while `work` runs. */
async function eventLoopDelay(work: () => Promise<void>): Promise<number> {
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  try {
    await work();
  } finally {
    delay.disable();
  }
  return delay.percentile(99) / 1e6;
}

async function* measure({ prompt, rounds, ...flags }: Flags, signal: AbortSignal): AsyncGenerator<Measure> {
  const milliseconds = (name: string, value: number): Measure => ({ name, value, unit: 'ms' });
  const begin = performance.now();
  await using pipe = await InfinityPipeline.fromPretrained(await modelSource(flags), { signal });
  yield milliseconds('load', performance.now() - begin);
  yield milliseconds('first prompt to PNG', await drawPng(pipe, prompt, 0, signal));
  // Since the process began: starting Node and loading this package included.
  yield milliseconds('process start to first PNG', performance.now());
  // What timer, system and whoever else runs here take by themselves.
  const idle = await eventLoopDelay(() => sleep(1000, undefined, { signal }));
  const times: number[] = [];
  const drawing = await eventLoopDelay(async () => {
    for (let seed = 1; seed <= rounds; seed++) times.push(await drawPng(pipe, prompt, seed, signal));
  });
  times.sort((a, b) => a - b);
  yield milliseconds('prompt to PNG, warm, median', quantile(times, 0.5));
  yield milliseconds('prompt to PNG, warm, 10 %', quantile(times, 0.1));
  yield milliseconds('prompt to PNG, warm, 90 %', quantile(times, 0.9));
  yield milliseconds('event loop delay, p99', drawing);
  yield milliseconds('event loop delay without work, p99', idle);
  yield { name: 'peak tensor memory', value: Device.default().stats().peakBytes / 2 ** 20, unit: 'MiB' };
  yield { name: 'peak memory of the process', value: process.resourceUsage().maxRSS / 2 ** 10, unit: 'MiB' };
}

async function bench(flags: Flags): Promise<void> {
  if (!Number.isSafeInteger(flags.rounds) || flags.rounds < 1)
    invalidArgument('--rounds', 'an integer from 1', flags.rounds, 'Leave it out for 50.');
  const { backend: isa, threads } = Device.default().stats();
  const machine = { cpu: cpus()[0]?.model.trim() ?? 'unknown', isa, threads, node: process.versions.node };
  if (!flags.json) print(false, machine, () => `${machine.cpu}, ${isa}, ${threads} threads, Node ${machine.node}`);
  for await (const { name, value, unit } of measure(flags, interruptSignal()))
    print(
      flags.json === true,
      { name, value, unit, ...machine },
      () => `${name.padEnd(34)} ${value.toFixed(1)} ${unit}`,
    );
}

export function benchCommand(): Command {
  return addModelOptions(new Command('bench').description('measure how fast this installation draws'))
    .option('-p, --prompt <text>', 'what to draw', 'a red circle above a blue square')
    .option('--rounds <integer>', 'pictures drawn warm', numberOption('--rounds'), 50)
    .option('--json', 'JSON lines on stdout')
    .action(bench);
}
