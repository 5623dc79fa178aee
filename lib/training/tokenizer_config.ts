/** What a config file of `train tokenizer` holds. */
import { MAX_JOINT_BITS } from '../ops/quantize.js';
import { type AutoencoderConfig, parseAutoencoderConfig } from '../tokenizer/config.js';
import { QUANTIZER_KINDS, type QuantizerKind } from '../tokenizer/quantizer.js';
import { SCHEDULE_MODES } from '../tokenizer/schedule_modes.js';
import { ADVERSARY_RULES, type AdversaryConfig } from './adversary.js';
import {
  checkRunConfig,
  number,
  object,
  optional,
  type Rule,
  type RunConfig,
  readPart,
  refuseField,
  samplesRule,
} from './config.js';
import { smallestSide } from './discriminator.js';
import { isResolutions, isSchedule, type Resolution, type ResolutionConfig, resolutionsOf } from './resolutions.js';

/** What a config file of `train tokenizer` holds. */
export interface TokenizerTrainingConfig extends RunConfig {
  readonly autoencoder: AutoencoderConfig;
  /** "bsq" by default; "lfq" for comparison, up to 16 bits. */
  readonly quantizer?: QuantizerKind;
  /** Grids from coarse to fine on the latent, such as "1 2 4x2", or a published mode; official "dense". */
  readonly schedule: string;
  /** Sizes that take turns, the largest that of the dataset; only that one by default. */
  readonly resolutions?: readonly ResolutionConfig[];
  readonly loss: {
    readonly l1: number;
    readonly l2: number;
    /** Weight of the quantiser's loss; official 4. */
    readonly quantizer: number;
    /** Inside the quantiser's loss: official 0.25 and 0.1. */
    readonly commitment: number;
    readonly entropy: number;
    /** Weight of the squared residual that the last scale leaves; official 0. */
    readonly residual?: number;
    /** Weight of the perceptual distance; official 1, which is the default. */
    readonly perceptual?: number;
    /** Files of VGG-16 and of the heads; without them there is no perceptual distance. */
    readonly perceptual_weights?: readonly string[];
  };
  /** Trains along and judges reconstructions; none by default. */
  readonly discriminator?: AdversaryConfig;
  /** Weight decay for vectors and biases too, as published; false by default. */
  readonly decay_vectors?: boolean;
  /** Residual blocks are computed again in the backward pass; official in stage 2. Changes no bit. */
  readonly checkpointing?: boolean;
  /** Probability that a scale other than the last is left out in a step; official 0.5. */
  readonly scale_dropout: number;
}

const isPath = (v: unknown): boolean => typeof v === 'string' && v !== '';

const RULES: readonly Rule[] = [
  object('autoencoder'),
  optional(['quantizer', `one of ${QUANTIZER_KINDS.join(', ')}`, (v) => QUANTIZER_KINDS.some((kind) => kind === v)]),
  ['schedule', `grids from coarse to fine such as "1 2 4x2", or one of ${SCHEDULE_MODES.join(', ')},`, isSchedule],
  optional(['resolutions', 'a list of objects with "size" and "batch_size"', isResolutions]),
  ...['l1', 'l2', 'quantizer', 'commitment', 'entropy'].map((term) => number(`loss.${term}`)),
  ...['residual', 'perceptual'].map((term) => optional(number(`loss.${term}`))),
  optional(['loss.perceptual_weights', 'a list of files', (v) => Array.isArray(v) && v.length > 0 && v.every(isPath)]),
  ...['decay_vectors', 'checkpointing'].map((flag) =>
    optional([flag, 'true or false', (v: unknown) => typeof v === 'boolean']),
  ),
  number('scale_dropout', 0, 1),
  samplesRule({ prompts: false }),
];

/** A config that was checked, and what follows from it. */
export interface CheckedTokenizerConfig {
  readonly config: TokenizerTrainingConfig;
  readonly autoencoderConfig: AutoencoderConfig;
  readonly resolutions: readonly Resolution[];
}

/** LPIPS halves pictures four times. */
const SMALLEST_PERCEPTUAL_SIDE = 16;

/** @throws InfinityError INVALID_ARGUMENT naming the field that is missing, unknown or out of range, or fits no other */
export function checkTokenizerConfig(json: unknown): CheckedTokenizerConfig {
  const judged = typeof json === 'object' && json !== null && 'discriminator' in json;
  const config = checkRunConfig<TokenizerTrainingConfig>(json, judged ? [...RULES, ...ADVERSARY_RULES] : RULES);
  const autoencoderConfig = readPart('autoencoder', () => parseAutoencoderConfig(config.autoencoder));
  const { codebook_dim } = autoencoderConfig;
  if (config.quantizer === 'lfq' && codebook_dim > MAX_JOINT_BITS)
    refuseField(
      'autoencoder.codebook_dim',
      `at most ${MAX_JOINT_BITS} bits with "lfq", whose entropies go through 2^d codes,`,
      codebook_dim,
    );
  const resolutions = resolutionsOf(config, autoencoderConfig.patch_size);
  const shortest = Math.min(...resolutions.flatMap(({ size }) => size));
  if (config.discriminator && smallestSide(config.discriminator.layers) > shortest)
    refuseField(
      'discriminator.layers',
      `so few layers that a side of ${shortest} pixels, at least 3 · 2^layers, is left a score,`,
      config.discriminator.layers,
    );
  if (config.loss.perceptual_weights && shortest < SMALLEST_PERCEPTUAL_SIDE)
    refuseField(
      'loss.perceptual_weights',
      `sides of at least ${SMALLEST_PERCEPTUAL_SIDE} pixels`,
      config.loss.perceptual_weights,
    );
  return { config, autoencoderConfig, resolutions };
}
