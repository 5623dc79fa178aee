/** Trainings in processes of their own that are killed at drawn moments and started again, and what they leave behind. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { type FSWatcher, watch } from 'node:fs';
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { CounterRandom } from '../../lib/data/shapes/random.js';
import { readRunLog } from '../../lib/training/run_log.js';
import { call } from '../support/command_line.js';

const MAIN = fileURLToPath(new URL('../../lib/cli/main.ts', import.meta.url));
const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** What a kill waits for; each is followed by a drawn delay. */
const SIGNS = {
  start: { name: undefined, delay: 1500 },
  step: { name: /^log\.jsonl$/, delay: 40 },
  state: { name: /^\.state-.*\.tmp$/, delay: 4 },
  rotation: { name: /^state-.*\.safetensors$/, delay: 2 },
  checkpoint: { name: /^\.checkpoint\..*\.tmp$/, delay: 20 },
  replacement: { name: /^checkpoint\.previous$/, delay: 1 },
} as const;
type Sign = keyof typeof SIGNS;

/** One kill: what it waited for, and what stood in the directory when the process was dead. */
export interface Kill {
  readonly sign: Sign;
  /** Whether the process was still running. */
  readonly hit: boolean;
  /** Where it was, as its directory tells. */
  readonly found: string;
}

function start(args: readonly string[]): { readonly child: ChildProcess; readonly errors: () => string } {
  const child = spawn(process.execPath, ['--import', 'tsx', MAIN, ...args], { cwd: ROOT });
  let text = '';
  child.stderr.on('data', (chunk: Buffer) => {
    text += chunk.toString();
  });
  child.stdout.resume();
  return { child, errors: () => text };
}

/** Resolves at the `count`-th change of a name in a folder that matches. */
function seen(
  folder: string,
  name: RegExp,
  count: number,
): { readonly done: Promise<void>; readonly watcher: FSWatcher } {
  let left = count;
  const watcher = watch(folder);
  const done = new Promise<void>((resolve) => {
    watcher.on('change', (_, file) => {
      if (name.test(String(file)) && --left <= 0) resolve();
    });
  });
  return { done, watcher };
}

async function findings(directory: string): Promise<string> {
  const names = await readdir(directory);
  const states = names.filter((name) => /^state-/.test(name)).length;
  if (names.some((name) => SIGNS.state.name.test(name))) return 'a state half written';
  if (names.some((name) => SIGNS.checkpoint.name.test(name))) return 'a checkpoint half written';
  if (names.includes('checkpoint.previous')) return 'a checkpoint half replaced';
  if (states > 2) return 'a state not yet removed';
  return states === 0 ? 'nothing saved yet' : 'whole files';
}

/** Runs a training to its end, in this process. @throws Error with what it wrote when it fails */
export async function finish(args: readonly string[]): Promise<void> {
  const { code, stderr } = await call(args);
  if (code !== 0) throw new Error(`${args.slice(0, 2).join(' ')} ended with code ${code}: ${stderr}`);
}

/**
 * Starts a training again and again and kills it, each time at a moment that the seed draws.
 * @param args of the command line, with `directory` as the output
 */
export async function killRepeatedly(
  args: readonly string[],
  directory: string,
  { kills, seed, onKill }: { kills: number; seed: number; onKill?: (kill: Kill) => void },
): Promise<Kill[]> {
  await mkdir(directory, { recursive: true });
  const random = new CounterRandom(9, seed);
  const signs = Object.keys(SIGNS) as Sign[];
  const order = Array.from({ length: Math.ceil(kills / signs.length) }, () => random.shuffled([...signs])).flat();
  const done: Kill[] = [];
  for (const sign of order.slice(0, kills)) {
    const { name, delay } = SIGNS[sign];
    const [count, wait] = [1 + random.below(3), random.between(0, delay)];
    const sight = name && seen(directory, name, count);
    const { child, errors } = start(args);
    const closed = once(child, 'close');
    await Promise.race([sight?.done, closed]);
    if (child.exitCode === null) await sleep(wait);
    const hit = child.exitCode === null && child.kill('SIGKILL');
    const [code] = await closed;
    sight?.watcher.close();
    if (!hit && code !== 0) throw new Error(`a resumed training ended with code ${code}: ${errors()}`);
    const kill = { sign, hit, found: await findings(directory) };
    onKill?.(kill);
    done.push(kill);
  }
  return done;
}

const digestOf = async (path: string): Promise<string> =>
  createHash('sha256')
    .update(await readFile(path))
    .digest('hex');

/**
 * What must not depend on how often a finished run was killed: numbers of every step, states and checkpoint by their digests. A
 * grid of samples is missing where the process died between a state and its drawing.
 */
export async function leftBy(directory: string): Promise<Readonly<Record<string, unknown>>> {
  const steps: unknown[] = [];
  for await (const { time: _, memory: __, samplesPerSecond: ___, ...numbers } of readRunLog(directory))
    steps.push(numbers);
  const names = (await readdir(directory, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => !/^(log\.jsonl|report\.html|samples\/.*)$/.test(relative(directory, path)));
  const files = names.sort().map(async (path) => [relative(directory, path), await digestOf(path)] as const);
  return { steps, files: Object.fromEntries(await Promise.all(files)) };
}
