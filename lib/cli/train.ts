/** `train tokenizer | transformer`: runs, resumes and exports a training described by a config file. */
import { Command, Option } from 'commander';
import type { BadRowsReport } from '../data/bad_rows.js';
import { Device, type DeviceKind } from '../device.js';
import { invalidArgument } from '../errors.js';
import { readConfigFile } from '../training/config.js';
import { openTraining, type TrainingKind } from '../training/index.js';
import type { Resumed, StepEvent } from '../training/run.js';
import { interruptSignal, numberOption, print } from './context.js';
import { trainingEstimate } from './train_estimate.js';
import { TrainingOutputs, whereItStands } from './train_outputs.js';

interface Flags {
  config: string;
  out: string;
  init?: string;
  tokenizer?: string;
  threads?: number;
  cache?: string;
  device?: DeviceKind;
  deterministic: boolean;
  logEvery: number;
  estimate?: boolean;
  tensorboard?: boolean;
  json?: boolean;
}

function stepsOption(text: string): number {
  const steps = numberOption('--log-every')(text);
  if (!Number.isInteger(steps) || steps < 1) invalidArgument('--log-every', 'a positive integer', text);
  return steps;
}

const clock = (seconds: number): string =>
  `${Math.floor(seconds / 3600)}:${String(Math.floor(seconds / 60) % 60).padStart(2, '0')}:${String(Math.floor(seconds % 60)).padStart(2, '0')}`;

function line(e: StepEvent): string {
  const metrics = Object.entries(e.metrics)
    .map(([name, v]) => `${name} ${v.toPrecision(4)}`)
    .join('  ');
  return `step ${e.step}/${e.iterations}${e.phase ? `  ${e.phase}` : ''}  loss ${e.loss.toFixed(4)}  ${metrics}  grad ${e.gradNorm.toFixed(3)}  lr ${e.lr.toExponential(2)}  ${e.samplesPerSecond.toFixed(1)}/s  ${clock(e.secondsLeft)} left${e.badRows ? `  bad rows ${e.badRows.count}` : ''}${e.saved ? '  saved' : ''}`;
}

/** Where a run goes on from is told where that is not the newest state. */
function tellResume({ step, path, damaged }: Resumed): void {
  for (const { reason } of damaged) process.stderr.write(`node-infinity: ${reason}\n`);
  if (damaged.length > 0) process.stderr.write(`node-infinity: going on from the state of step ${step}, ${path}\n`);
}

/** Tells of bad rows on stderr: of each of the first few when it is found, of the others by their number. */
class BadRowsNotice {
  private told: BadRowsReport = { count: 0, first: [] };

  tell({ badRows = this.told }: StepEvent, counting: boolean): void {
    const fresh = badRows.first.slice(this.told.first.length);
    if (badRows.count === this.told.count || (fresh.length === 0 && !counting)) return;
    this.told = badRows;
    const lines = [`bad rows so far: ${badRows.count}; others take their places`, ...fresh.map((row) => `  ${row}`)];
    process.stderr.write(`node-infinity: ${lines.join('\n')}\n`);
  }
}

/** Tells on stderr, once each, that entries of the cache were damaged and that none is written any more. */
class CacheNotice {
  private damaged = 0;
  private failure: string | undefined;

  tell({ cache = {} }: StepEvent): void {
    const counts = Object.values(cache);
    const damaged = counts.reduce((sum, each) => sum + each.damaged, 0);
    const failure = counts.find((each) => each.failure !== undefined)?.failure;
    if (damaged > this.damaged)
      process.stderr.write(`node-infinity: damaged entries of the cache so far: ${damaged}; computed again\n`);
    if (failure !== undefined && this.failure === undefined)
      process.stderr.write(`node-infinity: nothing more is kept in the cache: ${failure}\n`);
    this.damaged = damaged;
    this.failure = failure;
  }
}

async function train(kind: TrainingKind, flags: Flags): Promise<void> {
  const signal = interruptSignal();
  const options = {
    config: await readConfigFile(flags.config),
    ...(flags.init === undefined ? {} : { init: flags.init }),
    ...(flags.tokenizer === undefined ? {} : { tokenizer: flags.tokenizer }),
    ...(flags.threads === undefined ? {} : { threads: flags.threads }),
    ...(flags.cache === undefined ? {} : { cache: flags.cache }),
  };
  if (flags.estimate) {
    const { told, text } = await trainingEstimate(kind, options, signal);
    return print(flags.json === true, told, text);
  }
  const { deterministic } = flags;
  const device = flags.device && Device.create(flags.device, { deterministic });
  const training = await openTraining(kind, { ...options, ...(device && { device }) });
  const outputs = new TrainingOutputs(training, { directory: flags.out, signal, tensorboard: flags.tensorboard });
  if (training.summary !== undefined) process.stderr.write(`node-infinity: ${training.summary}\n`);
  for (const notice of training.notices ?? []) process.stderr.write(`node-infinity: ${notice}\n`);
  try {
    // With every saved state goes a checkpoint that draws: a run can be looked at, and gone on from, at any time.
    let current = false;
    const notice = new BadRowsNotice();
    const cacheNotice = new CacheNotice();
    try {
      for await (const event of training.run({ directory: flags.out, signal, onResume: tellResume })) {
        await outputs.step(event);
        current = event.saved !== undefined;
        if (current) await outputs.saved(event.step);
        const shown = event.step % flags.logEvery === 0 || event.saved !== undefined;
        notice.tell(event, shown);
        cacheNotice.tell(event);
        if (shown) print(flags.json === true, event, () => line(event));
      }
    } catch (error) {
      if (signal.aborted) await outputs.export();
      throw error;
    }
    if (!current) await outputs.export();
    print(flags.json === true, { exported: outputs.checkpoint }, () => `exported ${outputs.checkpoint}`);
  } catch (error) {
    throw await whereItStands(error, flags.out);
  } finally {
    await outputs.close();
    training.dispose();
  }
}

function command(kind: TrainingKind, summary: string): Command {
  return new Command(kind)
    .description(summary)
    .requiredOption('-c, --config <file>', 'training config, JSON')
    .requiredOption(
      '-o, --out <directory>',
      'states, log, report and the exported checkpoint; a run that stands there is resumed',
    )
    .option('--init <path>', 'start from the weights of this checkpoint, or from official ones')
    .option('--cache <directory>', 'keep here what is computed of pictures and captions, and use it again')
    .option('--threads <integer>', 'threads of the CPU', numberOption('--threads'))
    .addOption(new Option('--device <kind>', 'where to train (default: the processor)').choices(['cpu', 'cuda']))
    .option('--no-deterministic', 'on a card: whichever way of a product or attention is measured to be the fastest')
    .option('--log-every <steps>', 'steps between two lines', stepsOption, 10)
    .option('--estimate', 'only tell memory, disk and time of the training; a few steps are tried, nothing is kept')
    .option('--tensorboard', 'event files for TensorBoard as well')
    .option('--json', 'JSON lines on stdout')
    .action((flags: Flags) => train(kind, flags));
}

export function trainCommand(): Command {
  const transformer = command(
    'transformer',
    'train the transformer and its text encoder with bitwise self-correction',
  ).requiredOption('--tokenizer <directory>', 'checkpoint that holds the trained tokenizer');
  return new Command('train')
    .description('train a model of your own')
    .addCommand(command('tokenizer', 'train the visual tokenizer'))
    .addCommand(transformer);
}
