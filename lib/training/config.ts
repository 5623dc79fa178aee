/** What a training config file holds. Every field is explicit: a run is reproducible from its file. */
import { readFile } from 'node:fs/promises';
import { checkDatasetSpec, type DatasetSpec } from '../data/spec.js';
import { describe, InfinityError } from '../errors.js';
import type { DivergenceConfig } from './divergence.js';
import { isLrSchedule, LR_SCHEDULES } from './lr_schedule.js';

/** AdamW and its schedule. */
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

/** What every training needs. */
export interface RunConfig {
  readonly seed: number;
  readonly dataset: DatasetSpec;
  readonly batch_size: number;
  readonly iterations: number;
  readonly optimizer: OptimizerConfig;
  /** Steps between two saved states. */
  readonly save_every: number;
  /** Folder of what is computed once and kept; see cache.ts. */
  readonly cache?: string;
  /** Most of it in gigabytes. */
  readonly cache_limit?: number;
  /** When to stop because the loss stays high; see divergence.ts. */
  readonly divergence?: DivergenceConfig;
  /** What is drawn at every saved state, to look at; it does not touch the weights. */
  readonly samples?: SamplesConfig;
}

/** Which pictures are drawn: those of the first `count` samples of the dataset, or of given prompts. */
export interface SamplesConfig {
  /** 8 by default; 0 draws none. */
  readonly count?: number;
  /** Transformer only, instead of `count`. */
  readonly prompts?: readonly string[];
}

/** Pictures of a sample grid: at most, and where the config does not say. */
const MAX_SAMPLES = 64;
const DEFAULT_SAMPLES = 8;

/** How many pictures a sample grid has. */
export function sampleCount({ samples }: Pick<RunConfig, 'samples'>): number {
  return samples?.prompts?.length ?? samples?.count ?? DEFAULT_SAMPLES;
}

/** @throws InfinityError INVALID_ARGUMENT that names the field */
export function refuseField(field: string, expected: string, value: unknown): never {
  throw new InfinityError(
    'INVALID_ARGUMENT',
    `Expected ${expected} for '${field}' of the training config but received ${describe(value)}.`,
    { value, fields: { field }, cure: 'Correct that field; docs/training-configuration.md explains each.' },
  );
}

/** What a field must be. A rule for a dotted path speaks of a field inside an object. */
export type Rule = readonly [path: string, expected: string, check: (value: unknown) => boolean];

/** A rule for an integer of at least `least`. */
export function integer(path: string, least: number): Rule {
  return [path, `an integer from ${least}`, (v) => Number.isSafeInteger(v) && (v as number) >= least];
}

/** A rule for a number from `least`, 0 by default, to `most`. */
export function number(path: string, least = 0, most = Number.MAX_VALUE): Rule {
  const expected = most < Number.MAX_VALUE ? `a number from ${least} to ${most}` : `a number from ${least}`;
  return [path, expected, (v) => typeof v === 'number' && v >= least && v <= most];
}

/** A rule for a number above 0. */
export function positive(path: string): Rule {
  return [path, 'a positive number', (v) => typeof v === 'number' && v > 0 && Number.isFinite(v)];
}

/** A rule for an object whose fields are checked by whoever reads it. */
export function object(path: string): Rule {
  return [path, 'an object', isObject];
}

/** A rule for a field that may be left out. */
export function optional([path, expected, check]: Rule): Rule {
  return [path, `${expected}, or nothing,`, (v) => v === undefined || check(v)];
}

/** Whether this is an object and no list. */
export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isDivergence(v: unknown): boolean {
  if (!isObject(v) || Object.keys(v).some((key) => key !== 'factor' && key !== 'steps')) return false;
  const { factor, steps } = v;
  return typeof factor === 'number' && factor > 1 && Number.isSafeInteger(steps) && (steps as number) >= 0;
}

function isSamples(v: unknown, prompts: boolean): boolean {
  if (!isObject(v) || Object.keys(v).length !== 1) return false;
  const { count, prompts: given } = v;
  if (count !== undefined)
    return Number.isSafeInteger(count) && (count as number) >= 0 && (count as number) <= MAX_SAMPLES;
  if (!prompts || !Array.isArray(given) || given.length === 0 || given.length > MAX_SAMPLES) return false;
  return given.every((prompt) => typeof prompt === 'string' && prompt.trim() !== '');
}

/** A rule for `samples`. @param prompts whether the training knows any */
export function samplesRule({ prompts }: { readonly prompts: boolean }): Rule {
  const own = prompts ? `, or "prompts", a list of 1 to ${MAX_SAMPLES} texts` : '';
  return optional([
    'samples',
    `an object with "count" from 0 to ${MAX_SAMPLES}${own}`,
    (value) => isSamples(value, prompts),
  ]);
}

const isShare = (v: unknown): boolean => typeof v === 'number' && v >= 0 && v <= 1;

const RUN_RULES: readonly Rule[] = [
  integer('seed', 0),
  integer('batch_size', 1),
  integer('iterations', 1),
  integer('save_every', 1),
  object('dataset'),
  optional(['cache', 'a path', (v) => typeof v === 'string' && v !== '']),
  optional(positive('cache_limit')),
  optional(['divergence', 'an object with "factor" above 1 and "steps" from 0', isDivergence]),
  positive('optimizer.lr'),
  ['optimizer.lr_schedule', LR_SCHEDULES, isLrSchedule],
  integer('optimizer.warmup_iterations', 0),
  number('optimizer.start_factor', 0, 1),
  number('optimizer.end_factor', 0, 1),
  number('optimizer.weight_decay'),
  ['optimizer.betas', 'two numbers from 0 to 1', (v) => Array.isArray(v) && v.length === 2 && v.every(isShare)],
  positive('optimizer.clip'),
  number('optimizer.ema_decay', 0, 1),
];

/** Reads a field by its dotted path. */
function at(config: unknown, path: string): unknown {
  return path.split('.').reduce((value: unknown, key) => (isObject(value) ? value[key] : undefined), config);
}

/** Fields that no rule knows: a misspelt one would be left out in silence. */
function refuseUnknown(config: Readonly<Record<string, unknown>>, rules: readonly Rule[]): void {
  const known = new Set(rules.flatMap(([path]) => [path, path.split('.')[0]!]));
  const whole = new Set(rules.map(([path]) => path));
  for (const [key, value] of Object.entries(config)) {
    if (!known.has(key)) refuseField(key, 'no such field', value);
    if (whole.has(key) || !isObject(value)) continue;
    for (const [inner, v] of Object.entries(value))
      if (!known.has(`${key}.${inner}`)) refuseField(`${key}.${inner}`, 'no such field', v);
  }
}

/**
 * Checks a parsed config file against the rules of every run and those of one training.
 * @throws InfinityError INVALID_ARGUMENT naming the first field that is missing, unknown or out of range
 */
export function checkRunConfig<T extends RunConfig>(config: unknown, own: readonly Rule[]): T {
  if (!isObject(config)) return refuseField('(root)', 'an object', config);
  const rules = [...RUN_RULES, ...own];
  refuseUnknown(config, rules);
  for (const [path, expected, check] of rules)
    if (!check(at(config, path))) refuseField(path, expected, at(config, path));
  checkDatasetSpec({ ...(config.dataset as object) });
  return config as unknown as T;
}

/**
 * Reads a part of the config that checkpoints hold as well. Their readers speak of a damaged checkpoint.
 * @throws InfinityError INVALID_ARGUMENT naming the part
 */
export function readPart<T>(field: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (!(cause instanceof InfinityError)) throw cause;
    throw new InfinityError('INVALID_ARGUMENT', `'${field}' of the training config: ${cause.statement}`, {
      value: cause.value,
      fields: { field, ...cause.fields },
      cure: 'Correct that field; docs/training-configuration.md explains each.',
      cause,
    });
  }
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
      cure: 'Correct the file.',
      cause,
    });
  }
}
