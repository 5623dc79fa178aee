/** What a config file of `train transformer` holds, and the network's configuration that follows from it. */

import { type DatasetSpec, sampleSizes } from '../data/spec.js';
import { invalidArgument } from '../errors.js';
import type { T5Config } from '../text/t5_config.js';
import { isGrids } from '../tokenizer/schedule.js';
import { type InfinityConfig, parseInfinityConfig } from '../transformer/config.js';
import {
  checkRunConfig,
  integer,
  isObject,
  number,
  object,
  optional,
  type Rule,
  type RunConfig,
  readPart,
  refuseField,
  samplesRule,
} from './config.js';
import { isStrength, type SelfCorrectionConfig } from './self_correction.js';
import { withBudgetSizes } from './size_schedules.js';

/** What a config file of `train transformer` holds. */
export interface TransformerTrainingConfig extends RunConfig {
  readonly transformer: Partial<InfinityConfig>;
  /** `vocab_size` follows from the text tokenizer. 'frozen' is that of the start, which stays as it is. */
  readonly text_encoder: Omit<T5Config, 'vocab_size'> | 'frozen';
  /** Most words of the captions that are tokens of their own; 8192 by default. */
  readonly vocabulary_limit?: number;
  readonly self_correction: SelfCorrectionConfig;
  /** Share of prompts that are replaced by the unconditional rows; official 0.1. */
  readonly text_dropout: number;
  /** How many scales, from the first on, are learned; all by default. Later ones keep the weights that `init` gave them. */
  readonly always_training_scales?: number;
  /** Tokens weigh by the square root of their scale's area. */
  readonly reweight: boolean;
  /** Grids of tokens for the sizes of the dataset, such as "1 2 4x2"; those of the tokenizer by default. */
  readonly scale_schedules?: readonly string[];
  /** Of the transformer's activations; 'bf16' needs a card. Weights and their updates are f32. 'f32' by default. */
  readonly dtype?: 'f32' | 'bf16';
  /** Equal parts of a batch that are computed one after the other; 1 by default. */
  readonly accumulate?: number;
  /** Blocks are computed again in the backward pass: less memory, more time, the same bits. */
  readonly checkpointing?: boolean;
  /** Defaults of generation that the checkpoint will carry. */
  readonly generation: Readonly<Record<string, unknown>>;
  /** Parts of the run that follow one another; what one leaves out is as above. */
  readonly stages?: readonly StageConfig[];
}

/** What may differ from stage to stage. */
export const STAGE_FIELDS = [
  'dataset',
  'scale_schedules',
  'self_correction',
  'text_dropout',
  'always_training_scales',
  'reweight',
  'accumulate',
  'checkpointing',
  'batch_size',
  'iterations',
  'optimizer',
] as const satisfies readonly (keyof TransformerTrainingConfig)[];

/** The fields of a stage, complete. */
export type StageConfig = Pick<TransformerTrainingConfig, (typeof STAGE_FIELDS)[number]> & { readonly name: string };

const isFlag = (v: unknown): boolean => typeof v === 'boolean';

const RULES: readonly Rule[] = [
  object('transformer'),
  ['text_encoder', "an object, or 'frozen',", (v) => v === 'frozen' || isObject(v)],
  optional(integer('vocabulary_limit', 1)),
  integer('self_correction.layers', 0),
  ['self_correction.strength', 'a share from 0 to 1 or a list of them', isStrength],
  ['self_correction.requant', 'true or false', isFlag],
  number('text_dropout', 0, 1),
  optional(integer('always_training_scales', 2)),
  ['reweight', 'true or false', isFlag],
  optional([
    'scale_schedules',
    'a list of grids such as "1 2 4x2"',
    (v) => Array.isArray(v) && v.length > 0 && v.every(isGrids),
  ]),
  optional(['dtype', "'f32' or 'bf16'", (v) => v === 'f32' || v === 'bf16']),
  optional(integer('accumulate', 1)),
  optional(['checkpointing', 'true or false', isFlag]),
  object('generation'),
  samplesRule({ prompts: true }),
];

/** @throws InfinityError INVALID_ARGUMENT naming the first field that is missing, unknown or out of range */
function checkComplete(json: Readonly<Record<string, unknown>>): TransformerTrainingConfig {
  const config = checkRunConfig<TransformerTrainingConfig>(withBudgetSizes(json), RULES);
  const { batch_size, accumulate = 1 } = config;
  if (batch_size % accumulate !== 0) refuseField('accumulate', `a divisor of the batch_size ${batch_size}`, accumulate);
  return config;
}

/** Settings of AdamW that belong to its state. */
const WHOLE_RUN = ['betas', 'clip', 'ema_decay'];
/** Ways to say what pictures are cut to: one replaces another. */
const CUTS = ['size', 'sizes', 'pn'];

function omit(object: Readonly<Record<string, unknown>>, fields: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(Object.entries(object).filter(([field]) => !fields.includes(field)));
}

/** The configuration with a stage in its place: objects keep the fields that the stage leaves out. */
function withStage(base: Readonly<Record<string, unknown>>, stage: Readonly<Record<string, unknown>>) {
  const merged: Record<string, unknown> = { ...base, ...omit(stage, ['name']) };
  for (const field of ['dataset', 'optimizer', 'self_correction']) {
    const [inherited, own] = [base[field], stage[field]];
    if (!isObject(inherited) || !isObject(own)) continue;
    const cut = field === 'dataset' && CUTS.some((name) => name in own);
    merged[field] = { ...(cut ? omit(inherited, CUTS) : inherited), ...own };
  }
  // Grids of other sizes say nothing of these.
  if (isObject(stage.dataset) && 'pn' in stage.dataset && !('scale_schedules' in stage)) delete merged.scale_schedules;
  return merged;
}

function checkStage(stage: unknown, name: string): asserts stage is Readonly<Record<string, unknown>> {
  if (!isObject(stage)) refuseField(name, 'an object', stage);
  for (const [field, value] of Object.entries(stage))
    if (field !== 'name' && !STAGE_FIELDS.some((known) => known === field))
      refuseField(`${name}.${field}`, 'nothing, because it holds for the whole run,', value);
  if (stage.name !== undefined && (typeof stage.name !== 'string' || stage.name === ''))
    refuseField(`${name}.name`, 'a text, or nothing,', stage.name);
  for (const field of isObject(stage.optimizer) ? WHOLE_RUN : [])
    if (isObject(stage.optimizer) && field in stage.optimizer)
      refuseField(`${name}.optimizer.${field}`, 'nothing, because it holds for the whole run,', stage.optimizer[field]);
}

/** What the log calls a stage that has no name. */
function sizeName(dataset: DatasetSpec): string {
  return sampleSizes(dataset)
    .map((size) => size.join('x'))
    .join(' ');
}

/**
 * A checked configuration, and that of each of its stages. Without `stages` there is one, the configuration itself; with them
 * `stages` is spelled out, `iterations` are those of all, and the other fields those of the first.
 * @throws InfinityError INVALID_ARGUMENT naming the first field that is missing, unknown or out of range
 */
export function checkTransformerConfig(json: unknown): {
  readonly config: TransformerTrainingConfig;
  readonly stages: readonly (TransformerTrainingConfig & { readonly name?: string })[];
  /** All sizes are those of official templates (`dataset.pn`). */
  readonly official: boolean;
} {
  if (!isObject(json)) return refuseField('(root)', 'an object', json);
  const { stages: given, ...base } = json;
  if (given === undefined) {
    const config = checkComplete(base);
    return { config, stages: [config], official: hasBudget(base) };
  }
  if (!Array.isArray(given) || given.length === 0)
    return refuseField('stages', 'a list of objects, or nothing,', given);
  const merged = given.map((stage: unknown, i) => {
    checkStage(stage, `stages[${i}]`);
    return { stage, whole: withStage(base, stage) };
  });
  const stages = merged.map(({ stage, whole }, i) => {
    const config = readPart(`stages[${i}]`, () => checkComplete(whole));
    return { ...config, name: (stage.name as string | undefined) ?? sizeName(config.dataset) };
  });
  const spelled = stages.map((stage) => pick(stage, [...STAGE_FIELDS, 'name']) as unknown as StageConfig);
  const { name: _, ...first } = stages[0]!;
  const iterations = stages.reduce((sum, stage) => sum + stage.iterations, 0);
  const official = merged.every(({ whole }) => hasBudget(whole));
  return { config: { ...first, iterations, stages: spelled }, stages, official };
}

function hasBudget({ dataset }: Readonly<Record<string, unknown>>): boolean {
  return isObject(dataset) && 'pn' in dataset;
}

function pick(object: object, fields: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(Object.entries(object).filter(([field]) => fields.includes(field)));
}

/** Options of the network that follow from the tokenizer, the text encoder and the sizes. */
const DERIVED = ['vae_embed_dim', 'text_channels', 'scale_schedules'];

/** The checked configuration. The reader of checkpoints passes over options that it does not know; a training must not. */
export function networkConfig(given: object, derived: Partial<InfinityConfig>): InfinityConfig {
  const config = readPart('transformer', () => parseInfinityConfig({ ...given, ...derived }));
  for (const [option, value] of Object.entries(given)) {
    if (DERIVED.includes(option))
      invalidArgument(
        `transformer.${option}`,
        'nothing',
        value,
        'Leave it out: it follows from the tokenizer or the text.',
      );
    if (!(option in config)) invalidArgument(`transformer.${option}`, 'no such option', value, 'Correct its name.');
  }
  return config;
}
