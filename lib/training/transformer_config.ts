/** What a config file of `train transformer` holds, and the network's configuration that follows from it. */
import { invalidArgument } from '../errors.js';
import type { T5Config } from '../text/t5_config.js';
import { type InfinityConfig, parseInfinityConfig } from '../transformer/config.js';
import {
  checkRunConfig,
  integer,
  number,
  object,
  optional,
  type Rule,
  type RunConfig,
  readPart,
  samplesRule,
} from './config.js';
import { isStrength, type SelfCorrectionConfig } from './self_correction.js';

/** What a config file of `train transformer` holds. */
export interface TransformerTrainingConfig extends RunConfig {
  readonly transformer: Partial<InfinityConfig>;
  /** `vocab_size` follows from the text tokenizer. */
  readonly text_encoder: Omit<T5Config, 'vocab_size'>;
  /** Most words of the captions that are tokens of their own; 8192 by default. */
  readonly vocabulary_limit?: number;
  readonly self_correction: SelfCorrectionConfig;
  /** Share of prompts that are replaced by the unconditional rows; official 0.1. */
  readonly text_dropout: number;
  /** How many scales, from the first on, are learned; all by default. Later ones keep the weights that `init` gave them. */
  readonly always_training_scales?: number;
  /** Tokens weigh by the square root of their scale's area. */
  readonly reweight: boolean;
  /** Equal parts of a batch that are computed one after the other; 1 by default. */
  readonly accumulate?: number;
  /** Blocks are computed again in the backward pass: less memory, more time, the same bits. */
  readonly checkpointing?: boolean;
  /** Defaults of generation that the checkpoint will carry. */
  readonly generation: Readonly<Record<string, unknown>>;
}

const isFlag = (v: unknown): boolean => typeof v === 'boolean';

const RULES: readonly Rule[] = [
  object('transformer'),
  object('text_encoder'),
  optional(integer('vocabulary_limit', 1)),
  integer('self_correction.layers', 0),
  ['self_correction.strength', 'a share from 0 to 1 or a list of them', isStrength],
  ['self_correction.requant', 'true or false', isFlag],
  number('text_dropout', 0, 1),
  optional(integer('always_training_scales', 2)),
  ['reweight', 'true or false', isFlag],
  optional(integer('accumulate', 1)),
  optional(['checkpointing', 'true or false', isFlag]),
  object('generation'),
  samplesRule({ prompts: true }),
];

/** @throws InfinityError INVALID_ARGUMENT naming the first field that is missing, unknown or out of range */
export function checkTransformerConfig(json: unknown): TransformerTrainingConfig {
  const config = checkRunConfig<TransformerTrainingConfig>(json, RULES);
  const { batch_size, accumulate = 1 } = config;
  if (batch_size % accumulate !== 0)
    invalidArgument('accumulate', `a divisor of the batch_size ${batch_size}`, accumulate, 'Correct one of them.');
  return config;
}

/** The checked configuration. The reader of checkpoints passes over options that it does not know; a training must not. */
export function networkConfig(given: object, derived: Partial<InfinityConfig>): InfinityConfig {
  const config = readPart('transformer', () => parseInfinityConfig({ ...given, ...derived }));
  for (const [option, value] of Object.entries(given)) {
    if (option in derived)
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
