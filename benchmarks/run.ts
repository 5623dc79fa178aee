/** `npm run bench [-- --json] [--filter LEVEL[/TEXT]] [--rounds N]`: tables, or with --json one line a result. */
import { parseArgs } from 'node:util';
import { block } from './block.js';
import { enqueue } from './enqueue.js';
import { generate } from './generate.js';
import { type BenchmarkOptions, machine, type Row, table } from './harness.js';
import { kernels } from './kernels.js';
import { large } from './large.js';
import { pool } from './pool.js';
import { train } from './train.js';

/** From one op to a whole picture and a training step. */
const LEVELS: Readonly<Record<string, (options: BenchmarkOptions) => AsyncIterable<Row>>> = {
  enqueue,
  kernels,
  pool,
  block,
  generate,
  large,
  train,
};

function usage(problem: string): never {
  console.error(
    `${problem}\nUsage: npm run bench [-- --json] [--filter LEVEL[/TEXT]] [--rounds N], where LEVEL is one of ${Object.keys(LEVELS).join(', ')} and TEXT a part of a result's name.`,
  );
  process.exit(2);
}

function readArguments() {
  try {
    const options = { json: { type: 'boolean' }, filter: { type: 'string' }, rounds: { type: 'string' } } as const;
    return parseArgs({ options }).values;
  } catch (error) {
    return usage((error as Error).message);
  }
}

const { json, filter: pattern = '', rounds: count } = readArguments();
const [level = '', ...text] = pattern.split('/');
const filter = text.join('/');
if (level && !(level in LEVELS)) usage(`There is no level "${level}".`);
const rounds = count === undefined ? undefined : Number(count);
if (rounds !== undefined && !(Number.isInteger(rounds) && rounds > 0))
  usage(`--rounds ${count} is no positive integer.`);

const context = machine();
if (!json)
  console.log(
    `${Object.entries(context)
      .map(([key, value]) => `${key} ${value}`)
      .join(' · ')}\n`,
  );
for (const [benchmark, measure] of Object.entries(LEVELS)) {
  if (level && level !== benchmark) continue;
  const rows: Row[] = [];
  for await (const row of measure({ filter, rounds })) {
    rows.push(row);
    if (json) console.log(JSON.stringify({ benchmark, ...row, ...context }));
  }
  if (!json && rows.length > 0) console.log(`${benchmark}\n\n${table(rows)}\n`);
}
