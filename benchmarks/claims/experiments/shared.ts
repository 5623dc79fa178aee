/** What several experiments have in common. */
import { embeddedShapes, startTokenizer } from '../embedded_model.js';
import type { Context } from '../experiment.js';
import { type TokenizerVariation, type TransformerVariation, tokenizerConfig, transformerConfig } from '../settings.js';
import { openTrained, type TrainedModel } from '../trained_model.js';
import type { Made } from '../workshop.js';

/** Sizes of a run: a short one shows that everything works. */
export interface Scope {
  readonly seeds: readonly number[];
  /** Steps of a tokenizer training. */
  readonly tokenizerSteps: number;
  /** Steps of a transformer training. */
  readonly steps: number;
  /** Held-out pictures that a model is measured on. */
  readonly pictures: number;
}

export function scopeOf(short: boolean): Scope {
  return short
    ? { seeds: [1], tokenizerSteps: 2, steps: 2, pictures: 4 }
    : { seeds: [1, 2, 3], tokenizerSteps: 300, steps: 250, pictures: 128 };
}

/** A tokenizer of pictures of 32 pixels that started from the embedded one. */
export async function trainedTokenizer(
  { workshop, device }: Context,
  { bits, ...variation }: TokenizerChoice,
): Promise<Made> {
  const start = await startTokenizer(workshop, device, { bits, seed: variation.seed });
  return workshop.tokenizer(tokenizerConfig({ shapes: await embeddedShapes(bits), ...variation }), start);
}

export type TokenizerChoice = Omit<TokenizerVariation, 'shapes'> & { readonly bits: number };

/** Bits of the tokenizer that most experiments share. */
const BITS = 16;
/** Its seed: the transformers differ in theirs alone. */
const TOKENIZER_SEED = 1;

/** Trains a transformer on a tokenizer that the experiment on vocabularies measures, or takes the one that another experiment trained alike, and measures it. */
export async function withTrained<T>(
  context: Context,
  variation: TransformerVariation & { readonly tokenizerSteps: number; readonly bits?: number },
  use: (model: TrainedModel, made: Made) => Promise<T>,
): Promise<T> {
  const { tokenizerSteps, bits = BITS, ...own } = variation;
  const tokenizer = await trainedTokenizer(context, { bits, seed: TOKENIZER_SEED, iterations: tokenizerSteps });
  const made = await context.workshop.transformer(transformerConfig(own), tokenizer);
  const model = await openTrained(made, context.device);
  try {
    return await use(model, made);
  } finally {
    model.dispose();
  }
}
