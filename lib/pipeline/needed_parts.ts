/** Which parts a model needs, whether they go together, and the sizes that they draw. */
import { describe, InfinityError } from '../errors.js';
import type { ModelParts } from './model_parts.js';
import { checkpointSizes, type SizeChoice, tokenizerSizes } from './sizes.js';

function mismatch(message: string, value: unknown): never {
  throw new InfinityError('CHECKPOINT_CONFIG_MISMATCH', message, {
    value,
    cure: 'Put together only components that were trained together.',
  });
}

/** The parts that a model needs; without a transformer it is a visual tokenizer alone. */
export interface NeededParts {
  readonly vae: NonNullable<ModelParts['vae']>;
  readonly generator:
    | Required<{ [K in 'transformer' | 'text_encoder' | 'tokenizer']: NonNullable<ModelParts[K]> }>
    | undefined;
}

const MISSING: Readonly<Record<string, string>> = {
  vae: 'visual tokenizer (vae)',
  text_encoder: 'text encoder (text_encoder)',
  tokenizer: 'text tokenizer (tokenizer.json)',
};

/** @throws InfinityError MODEL_NOT_FOUND naming the part that is missing */
export function neededParts(parts: ModelParts): NeededParts {
  const required = <T>(value: T | undefined, name: string): T => {
    if (value !== undefined) return value;
    throw new InfinityError('MODEL_NOT_FOUND', `The model "${parts.name}" has no ${MISSING[name]}.`, {
      value: parts.name,
      fields: { component: name },
      cure: 'Name the part that is missing as well, or load a checkpoint directory that holds it.',
    });
  };
  const vae = required(parts.vae, 'vae');
  if (!parts.transformer) return { vae, generator: undefined };
  const text_encoder = required(parts.text_encoder, 'text_encoder');
  const tokenizer = required(parts.tokenizer, 'tokenizer');
  return { vae, generator: { transformer: parts.transformer, text_encoder, tokenizer } };
}

/** @throws InfinityError CHECKPOINT_CONFIG_MISMATCH naming the options of two parts that do not go together */
export function checkTogether({ vae, generator }: NeededParts): void {
  if (!generator) return;
  const { transformer, text_encoder, tokenizer } = generator;
  const [bits, own] = [transformer.config.vae_embed_dim, vae.config.codebook_dim];
  if (bits !== own)
    mismatch(
      `The transformer predicts ${bits} bits a position (vae_embed_dim) but the tokenizer has ${own} (codebook_dim).`,
      bits,
    );
  const [channels, width] = [transformer.config.text_channels, text_encoder.config.d_model];
  if (width !== channels)
    mismatch(
      `The text encoder is ${width} wide (d_model) but the transformer reads ${channels} channels (text_channels).`,
      width,
    );
  if (tokenizer.vocabularySize > text_encoder.config.vocab_size)
    mismatch(
      `The text tokenizer knows ${tokenizer.vocabularySize} tokens but the text encoder has ${text_encoder.config.vocab_size} (vocab_size).`,
      tokenizer.vocabularySize,
    );
}

/** The sizes of a model. @throws InfinityError CHECKPOINT_INVALID */
export function sizesOf({ vae, generator }: NeededParts, schedule: unknown): readonly SizeChoice[] {
  const { patch_size } = vae.config;
  if (generator) {
    const { scale_schedules, apply_spatial_patchify } = generator.transformer.config;
    return checkpointSizes(scale_schedules, patch_size * (apply_spatial_patchify ? 2 : 1));
  }
  if (schedule !== undefined && typeof schedule !== 'string')
    throw new InfinityError(
      'CHECKPOINT_INVALID',
      `Expected a scale_schedule in vae/config.json but received ${describe(schedule)}.`,
      { value: schedule, cure: 'Write the grids from coarse to fine, such as "1 2 4x2".' },
    );
  return tokenizerSizes(schedule, patch_size);
}
