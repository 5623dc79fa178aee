/** What several experiments have in common. */
import { embeddedShapes, startTokenizer } from '../embedded_tokenizer.js';
import type { Context } from '../experiment.js';
import { type TransformerVariation, tokenizerConfig, transformerConfig } from '../settings.js';
import { openTrained, type TrainedModel } from '../trained_model.js';
import type { Made } from '../workshop.js';

/** Sizes of a run: a short one shows that everything works. */
export interface Scope {
  readonly seeds: readonly number[];
  /** Steps of the tokenizer that experiments share. */
  readonly tokenizerSteps: number;
  /** Steps of a transformer training. */
  readonly steps: number;
  /** Held-out pictures that a model is measured on. */
  readonly pictures: number;
}

export function scopeOf(short: boolean): Scope {
  return short
    ? { seeds: [1], tokenizerSteps: 2, steps: 2, pictures: 4 }
    : { seeds: [1, 2, 3], tokenizerSteps: 500, steps: 250, pictures: 192 };
}

/** The tokenizer that transformers of 32 pixels are trained on. */
export async function sharedTokenizer(context: Context, bits: number, iterations: number): Promise<Made> {
  const { workshop, device } = context;
  const start = await startTokenizer(workshop, device, { bits, seed: 1 });
  return workshop.tokenizer(tokenizerConfig({ shapes: await embeddedShapes(bits), seed: 1, iterations }), start);
}

/** Bits of the shared tokenizer. */
export const BITS = 16;

/** Trains a transformer on the shared tokenizer, or takes the one that another experiment trained alike, and measures it. */
export async function withTrained<T>(
  context: Context,
  variation: TransformerVariation & { readonly tokenizerSteps: number; readonly bits?: number },
  use: (model: TrainedModel) => Promise<T>,
): Promise<T> {
  const { tokenizerSteps, bits = BITS, ...own } = variation;
  const tokenizer = await sharedTokenizer(context, bits, tokenizerSteps);
  const made = await context.workshop.transformer(transformerConfig(own), tokenizer);
  const model = await openTrained(made, context.device);
  try {
    return await use(model);
  } finally {
    model.dispose();
  }
}
