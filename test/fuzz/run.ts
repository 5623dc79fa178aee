/** `npm run fuzz -- --reader NAME [--count N] [--seed S] [--start I] [--file FILE]`: see CONTRIBUTING.md. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { fuzzedFile } from './harness.js';
import { fuzz } from './supervise.js';
import { targets } from './targets/index.js';

const FOLDER = 'out/fuzz';
const names = targets.map(({ name }) => name);
const USAGE = `usage: npm run fuzz -- --reader ${names.join('|')}|all [--count 100000] [--seed 1] [--start 0] [--file FILE]`;

interface Request {
  readonly readers: readonly string[];
  readonly count: number;
  readonly seed: number;
  readonly start: number;
  readonly file: string | undefined;
}

function parse(): Request | string {
  const text = { type: 'string' } as const;
  try {
    const { values } = parseArgs({ options: { reader: text, count: text, seed: text, start: text, file: text } });
    const { reader = '', file } = values;
    const [count, seed, start] = [values.count ?? '100000', values.seed ?? '1', values.start ?? '0'].map(Number);
    if (reader !== 'all' && !names.includes(reader)) return `no such reader: ${reader}`;
    for (const n of [count, seed, start]) if (!Number.isSafeInteger(n) || n! < 0) return 'not a whole number';
    const readers = reader === 'all' ? names : [reader];
    return {
      readers,
      count: file === undefined ? count! : 1,
      seed: seed!,
      start: file === undefined ? start! : 0,
      file,
    };
  } catch (error) {
    return (error as Error).message;
  }
}

async function runReader(reader: string, { count, seed, start, file }: Request): Promise<boolean> {
  const begin = performance.now();
  let shown = 0;
  const onProgress = (index: number) => {
    if (!process.stderr.isTTY || performance.now() - shown < 500) return;
    shown = performance.now();
    process.stderr.write(`\r${reader} ${index - start + 1}/${count} `);
  };
  const report = await fuzz({ reader, seed, start, count, onProgress, ...(file === undefined ? {} : { file }) });
  const target = targets.find(({ name }) => name === reader)!;
  const seeds = await target.seeds();
  for (const { index, what } of report.failures) {
    let saved = file;
    if (saved === undefined) {
      mkdirSync(FOLDER, { recursive: true });
      saved = join(FOLDER, `${reader}-${seed}-${index}`);
      writeFileSync(saved, fuzzedFile(target, seeds, seed, index));
    }
    console.log(
      `${reader} ${index}: ${what}\n  saved as ${saved}; again with --reader ${reader} --seed ${seed} --start ${index} --count 1`,
    );
  }
  const { accepted, slowest, memory, failures } = report;
  const seconds = (performance.now() - begin) / 1000;
  console.log(
    `${reader}: ${count} files from ${start}, seed ${seed}: ${failures.length} failures, ${accepted} accepted, ` +
      `slowest ${slowest.toFixed(1)} ms, most memory ${(memory / 2 ** 20).toFixed(1)} MiB, ${seconds.toFixed(0)} s`,
  );
  return failures.length === 0;
}

const request = parse();
if (typeof request === 'string') {
  console.error(`${request}\n${USAGE}`);
  process.exitCode = 2;
} else {
  let sound = true;
  for (const reader of request.readers) sound = (await runReader(reader, request)) && sound;
  process.exitCode = sound ? 0 : 1;
}
