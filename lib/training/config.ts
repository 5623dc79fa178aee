/** What a training config file holds. Every field is explicit: a run is reproducible from its file. */
import { readFile } from 'node:fs/promises';
import type { DatasetSpec } from '../data/dataset.js';
import { InfinityError } from '../errors.js';

export interface OptimizerConfig {
  readonly lr: number;
  /** lin0, lin, lin00, lin<T>, cos or exp; see lr_schedule.ts. */
  readonly lr_schedule: string;
  readonly warmup_iterations: number;
  /** Multiplier of `lr` at the first and at the last iteration. */
  readonly start_factor: number;
  readonly end_factor: number;
  readonly weight_decay: number;
  readonly betas: readonly [number, number];
  /** Largest global gradient norm. */
  readonly clip: number;
  /** Decay of the averaged weights, which are the ones that are exported. */
  readonly ema_decay: number;
}

export interface RunConfig {
  readonly seed: number;
  readonly dataset: DatasetSpec;
  readonly batch_size: number;
  readonly iterations: number;
  readonly optimizer: OptimizerConfig;
  /** Steps between two saved states. */
  readonly save_every: number;
}

function refuse(field: string, expected: string, value: unknown): never {
  throw new InfinityError(
    'INVALID_ARGUMENT',
    `Expected ${expected} for '${field}' of the training config but received ${JSON.stringify(value)}.`,
    { value, fields: { field } },
  );
}

type Check = (value: unknown) => boolean;
const integer =
  (least: number): Check =>
  (v) =>
    Number.isSafeInteger(v) && (v as number) >= least;
const number =
  (least: number, most = Number.MAX_VALUE): Check =>
  (v) =>
    typeof v === 'number' && v >= least && v <= most;

const RULES: readonly (readonly [path: string, expected: string, check: Check])[] = [
  ['seed', 'a non-negative integer', integer(0)],
  ['batch_size', 'a positive integer', integer(1)],
  ['iterations', 'a positive integer', integer(1)],
  ['save_every', 'a positive integer', integer(1)],
  ['dataset.kind', 'a dataset kind', (v) => typeof v === 'string'],
  ['optimizer.lr', 'a positive number', number(Number.MIN_VALUE)],
  ['optimizer.lr_schedule', 'a schedule name', (v) => typeof v === 'string'],
  ['optimizer.warmup_iterations', 'a non-negative integer', integer(0)],
  ['optimizer.start_factor', 'a number from 0 to 1', number(0, 1)],
  ['optimizer.end_factor', 'a number from 0 to 1', number(0, 1)],
  ['optimizer.weight_decay', 'a non-negative number', number(0)],
  ['optimizer.clip', 'a positive number', number(Number.MIN_VALUE)],
  ['optimizer.ema_decay', 'a number from 0 to 1', number(0, 1)],
  ['optimizer.betas', 'two numbers from 0 to 1', (v) => Array.isArray(v) && v.length === 2 && v.every(number(0, 1))],
];

/** Reads a field by its dotted path. */
function at(object: unknown, path: string): unknown {
  let value = object;
  for (const key of path.split('.')) value = (value as Record<string, unknown> | undefined)?.[key];
  return value;
}

/** @throws InfinityError INVALID_ARGUMENT naming the field */
export function checkRunConfig<T extends RunConfig>(config: unknown): T {
  if (typeof config !== 'object' || config === null) refuse('(root)', 'an object', config);
  for (const [path, expected, check] of RULES) if (!check(at(config, path))) refuse(path, expected, at(config, path));
  return config as T;
}

/** @throws InfinityError IO_ERROR when the file cannot be read, INVALID_ARGUMENT when it is not JSON */
export async function readConfigFile(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    throw new InfinityError('IO_ERROR', `Cannot read the config ${path}.`, {
      value: path,
      cure: 'Check the path.',
      cause,
    });
  }
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new InfinityError('INVALID_ARGUMENT', `Expected JSON in ${path}: ${(cause as Error).message}.`, {
      value: path,
      cause,
    });
  }
}
