/** `npm run bench [-- --device cuda [--short]] [--json] [--filter LEVEL[/TEXT]] [--rounds N]`: tables, or with --json one line a result. */
import { parseArgs } from 'node:util';
import { block } from './block.js';
import { block as cardBlock } from './card/block.js';
import { kernels as cardKernels } from './card/kernels.js';
import { pictures } from './card/pictures.js';
import { train as cardTrain } from './card/train.js';
import { ways } from './card/ways.js';
import { enqueue } from './enqueue.js';
import { generate } from './generate.js';
import { type CardOptions, machine, type Row, table } from './harness.js';
import { kernels } from './kernels.js';
import { large } from './large.js';
import { pool } from './pool.js';
import { train } from './train.js';

type Levels = Readonly<Record<string, (options: CardOptions) => AsyncIterable<Row>>>;

/** From one op to a whole picture and a training step, by the device. */
const DEVICES: Readonly<Record<string, Levels>> = {
  cpu: { enqueue, kernels, pool, block, generate, large, train },
  cuda: { kernels: cardKernels, ways, block: cardBlock, pictures, train: cardTrain },
};

function usage(problem: string): never {
  const levels = Object.entries(DEVICES)
    .map(([device, names]) => `${Object.keys(names).join(', ')} (${device})`)
    .join('; ');
  console.error(
    `${problem}\nUsage: npm run bench [-- --device cpu | cuda [--short]] [--json] [--filter LEVEL[/TEXT]] [--rounds N], where TEXT is a part of a result's name and LEVEL one of ${levels}.`,
  );
  process.exit(2);
}

function readArguments() {
  try {
    const [text, flag] = [{ type: 'string' }, { type: 'boolean' }] as const;
    const options = { json: flag, filter: text, rounds: text, device: text, short: flag };
    return parseArgs({ options }).values;
  } catch (error) {
    return usage((error as Error).message);
  }
}

const { json, filter: pattern = '', rounds: count, device: kind = 'cpu', short } = readArguments();
const levels = DEVICES[kind] ?? usage(`There is no device "${kind}".`);
if (short && kind === 'cpu') usage('--short is a rehearsal of the levels of a card.');
const [level = '', ...text] = pattern.split('/');
const filter = text.join('/');
if (level && !(level in levels)) usage(`There is no level "${level}".`);
const rounds = count === undefined ? undefined : Number(count);
if (rounds !== undefined && !(Number.isInteger(rounds) && rounds > 0))
  usage(`--rounds ${count} is no positive integer.`);

const context = machine(kind === 'cuda' ? 'cuda' : 'cpu');
if (!json)
  console.log(
    `${Object.entries(context)
      .map(([key, value]) => `${key} ${value}`)
      .join(' · ')}\n`,
  );
for (const [benchmark, measure] of Object.entries(levels)) {
  if (level && level !== benchmark) continue;
  const rows: Row[] = [];
  for await (const row of measure({ filter, rounds, short: short ?? false })) {
    rows.push(row);
    if (json) console.log(JSON.stringify({ benchmark, ...row, ...context }));
  }
  if (!json && rows.length > 0) console.log(`${benchmark}\n\n${table(rows)}\n`);
}
