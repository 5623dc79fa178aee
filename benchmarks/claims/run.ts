/** `npm run claims [-- --short] [--only NAME] [--rounds N] [--out DIR] [--threads N] [--pages]`: what of the paper holds in small. */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Device } from '../../lib/device.js';
import { packageRoot } from '../../lib/native.js';
import { machine } from '../harness.js';
import type { Context } from './experiment.js';
import { EXPERIMENTS } from './experiments/index.js';
import { expectedSeconds, measure, measuredOf, missing, planned, publish } from './runner.js';
import { Store } from './store.js';
import { Workshop } from './workshop.js';

const NAMES = EXPERIMENTS.map(({ name }) => name);

function usage(problem: string): never {
  console.error(
    `${problem}\nUsage: npm run claims [-- --short] [--only NAME] [--rounds N] [--out DIR] [--threads N] [--pages], where NAME is one of ${NAMES.join(', ')} and a round measures one seed`,
  );
  process.exit(2);
}

function readArguments() {
  try {
    const text = { type: 'string' } as const;
    const flag = { type: 'boolean' } as const;
    return parseArgs({ options: { short: flag, pages: flag, only: text, rounds: text, out: text, threads: text } })
      .values;
  } catch (error) {
    return usage((error as Error).message);
  }
}

const minutes = (seconds: number): string =>
  seconds < 90 ? `${Math.round(seconds)} s` : `${(seconds / 60).toFixed(1)} min`;
const say = (text: string): void => {
  process.stderr.write(`${text}\n`);
};

function positive(option: string, given: string | undefined): number | undefined {
  if (given === undefined) return undefined;
  const value = Number(given);
  return Number.isInteger(value) && value > 0 ? value : usage(`--${option} ${given} is no positive integer.`);
}

const { short = false, pages = false, only, out, ...numbers } = readArguments();
if (only !== undefined && !NAMES.includes(only)) usage(`There is no experiment "${only}".`);
const threads = positive('threads', numbers.threads);
const rounds = positive('rounds', numbers.rounds) ?? Number.POSITIVE_INFINITY;

const directory = out ?? join(packageRoot(), 'out', short ? 'claims-short' : 'claims');
const plan = planned(EXPERIMENTS, short);
const chosen = plan.filter(
  ({ experiment, cell }) => (only === undefined || experiment.name === only) && cell.round < rounds,
);
const store = await Store.open(join(directory, 'records.jsonl'));
/** The pages of a short run mean nothing, so they stay with its records. */
const published = short ? directory : join(packageRoot(), 'docs');
const writePages = () => publish(measuredOf(EXPERIMENTS, plan, store), published);

const stop = new AbortController();
for (const name of ['SIGINT', 'SIGTERM'] as const) {
  process.once(name, () => {
    say('stopping: the cell that is running is lost, its trainings go on where they were saved');
    stop.abort(new Error(name));
  });
}

const context = machine();
const device = Device.create('cpu', threads === undefined ? {} : { threads });
let shown = 0;
const workshop = new Workshop(join(directory, 'models'), {
  device,
  signal: stop.signal,
  onStep: ({ step, iterations, loss, samplesPerSecond }) => {
    if (performance.now() - shown < 5000) return;
    shown = performance.now();
    say(`    step ${step}/${iterations}  loss ${loss.toFixed(4)}  ${samplesPerSecond.toFixed(0)}/s`);
  },
});
const services: Context = { device, workshop, signal: stop.signal };

try {
  const left = missing(chosen, store);
  say(
    `${chosen.length} cells, ${left.length} to measure; about ${minutes(expectedSeconds(left))} on two quiet cores; records in ${directory}`,
  );
  if (!pages)
    await measure(chosen, store, services, context, {
      onCell: ({ experiment, cell }, rest) => {
        say(
          `[${chosen.length - rest.length + 1}/${chosen.length}] ${experiment.name} ${JSON.stringify(cell.config)}, then about ${minutes(expectedSeconds(rest) - cell.seconds)}`,
        );
      },
      onRecord: async ({ values, seconds, cpuSeconds }) => {
        say(`    ${seconds} s, ${cpuSeconds} s of processors  ${JSON.stringify(values)}`);
        if (!short) await writePages();
      },
    });
  await writePages();
  const open = missing(plan, store);
  for (const { experiment, cell } of open) say(`missing: ${experiment.name} ${JSON.stringify(cell.config)}`);
  console.log(`${plan.length - open.length} of ${plan.length} cells measured; ${join(published, 'results.md')}`);
} catch (error) {
  if (!stop.signal.aborted) throw error;
  process.exitCode = 130;
} finally {
  device.close();
}
