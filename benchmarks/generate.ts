/** From prompt to PNG with the compiled package, in processes of its own: cold, warm, event loop, memory. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { packageRoot } from '../lib/native.js';
import { type EmbeddedModel, embeddedModel } from './embedded.js';
import { type BenchmarkOptions, elapsed, type Row, round, summarize } from './harness.js';

const execute = promisify(execFile);

/** Runs Node; rejects when it fails. */
const node = (args: readonly string[]) => execute(process.execPath, args);

const PROMPT = 'a red circle above a blue square';
const COMMAND_LINE = join(packageRoot(), 'dist', 'cli', 'main.js');

/** Goals by the names of the measures of `node-infinity bench`. */
const GOALS: Readonly<Record<string, number>> = {
  'prompt to PNG, warm, median': 300,
  'event loop delay, p99': 5,
};
const COLD_GOAL_MS = 600;

/** The shortest program that draws. Arguments: package, model, prompt, picture. */
const SHORTEST = `
  const [entry, model, prompt, path] = process.argv.slice(1);
  const { InfinityPipeline } = await import(entry);
  const pipe = await InfinityPipeline.fromPretrained(model);
  const { images } = await pipe.generate(prompt, { seed: 1 });
  await images[0].toFile(path);
  await pipe.dispose();`;

/** Wall time of whole processes, from their start to their end; the first one, which fills the file cache, is not counted. */
async function* cold({ directory }: EmbeddedModel, { filter = '', rounds = 5 }: BenchmarkOptions): AsyncGenerator<Row> {
  const folder = await mkdtemp(join(tmpdir(), 'node-infinity-benchmark-'));
  const png = join(folder, 'cold.png');
  const entry = pathToFileURL(join(packageRoot(), 'dist', 'index.js')).href;
  const programs: Readonly<Record<string, readonly string[]>> = {
    import: ['--input-type=module', '-e', SHORTEST, entry, directory, PROMPT, png],
    'command line': [COMMAND_LINE, 'generate', PROMPT, '--seed', '1', '--model', directory, '-o', png],
  };
  try {
    for (const [name, args] of Object.entries(programs)) {
      const [median, p10, p90] = ['median', '10 %', '90 %'].map((part) => `prompt to PNG, cold, ${name}, ${part}`);
      if (!median!.includes(filter)) continue;
      await node(args);
      const times: number[] = [];
      for (let i = 0; i < rounds; i++) times.push(await elapsed(() => node(args)));
      const time = summarize(times);
      yield { name: median!, value: round(time.median * 1e3), unit: 'ms', goal: COLD_GOAL_MS };
      yield { name: p10!, value: round(time.p10 * 1e3), unit: 'ms' };
      yield { name: p90!, value: round(time.p90 * 1e3), unit: 'ms' };
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

interface Measure {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
}

/** What `node-infinity bench` measures of this installation. */
async function* warm({ directory }: EmbeddedModel, { rounds = 50 }: BenchmarkOptions): AsyncGenerator<Row> {
  const args = ['bench', '--json', '--rounds', String(rounds), '--model', directory, '--prompt', PROMPT];
  const { stdout } = await node([COMMAND_LINE, ...args]);
  for (const line of stdout.trim().split('\n')) {
    const { name, value, unit } = JSON.parse(line) as Measure;
    const goal = GOALS[name];
    yield { name, value: round(value, 2), unit, ...(goal && { goal }) };
  }
}

/** `weights` says whether the embedded model was drawn with, or random weights of its shapes where there is none. */
export async function* generate(options: BenchmarkOptions): AsyncGenerator<Row> {
  await node([join(packageRoot(), 'scripts', 'ensure-dist.mjs')]);
  const model = await embeddedModel();
  try {
    for (const part of [warm, cold])
      for await (const row of part(model, options))
        if (String(row.name).includes(options.filter ?? '')) yield { ...row, weights: model.weights };
  } finally {
    await model.remove();
  }
}
