/** What is measured on a card: one list, which the peers in Python read as well, at full size and at one for rehearsals. */
import { readFileSync } from 'node:fs';
import { parseT5Config, type T5Config } from '../../lib/text/t5_config.js';
import type { ScaleSchedule } from '../../lib/tokenizer/schedule.js';
import { type InfinityConfig, type InfinitySize, officialInfinityConfig } from '../../lib/transformer/config.js';

/** Which keys a query sees: all of them, a cache, the text of its sample, or all scales up to its own. */
export type AttentionForm = 'full' | 'cached' | 'text' | 'causal';

export interface AttentionCase {
  readonly batch: number;
  readonly queries: number;
  readonly keys: number;
  readonly heads: number;
  /** Of a head. */
  readonly width: number;
  readonly form: AttentionForm;
  /** Scales of a block-causal sequence. */
  readonly scales?: number;
}

export type KernelCase = { readonly name: string } & (
  | {
      readonly kind: 'linear';
      readonly rows: number;
      readonly out: number;
      readonly inputs: number;
      readonly epilogue: 'none' | 'gelu' | 'residual';
    }
  | {
      /** A gated residual sum of as many features as it is made from, a modulated norm of it, and a product behind. */
      readonly kind: 'products_around_norm';
      readonly rows: number;
      readonly width: number;
      readonly out: number;
      /** The norm lies in the products' epilogues. */
      readonly folded: boolean;
    }
  | { readonly kind: 'linear_backward'; readonly rows: number; readonly out: number; readonly inputs: number }
  | ({ readonly kind: 'attention' } & AttentionCase)
  | ({ readonly kind: 'attention_backward' } & AttentionCase)
  | {
      readonly kind: 'append';
      readonly batch: number;
      readonly tokens: number;
      readonly heads: number;
      readonly width: number;
    }
  | { readonly kind: 'ada_norm'; readonly batch: number; readonly tokens: number; readonly width: number }
  | { readonly kind: 'bit_sample'; readonly tokens: number; readonly width: number; readonly bits: number }
  | { readonly kind: 'bit_loss'; readonly tokens: number; readonly width: number; readonly bits: number }
  | { readonly kind: 'quantise'; readonly pictures: number; readonly channels: number; readonly scales: number }
  | { readonly kind: 'conv'; readonly size: number; readonly inputs: number; readonly out: number }
  | { readonly kind: 'upsample'; readonly size: number; readonly inputs: number }
  | { readonly kind: 'group_norm'; readonly size: number; readonly channels: number }
);

export type CaseOf<K extends KernelCase['kind']> = Extract<KernelCase, { kind: K }>;

export interface Cases {
  /** Mebibytes of the copy, and extent of the square product, that give the ceilings. */
  readonly copy_mib: number;
  readonly product: number;
  readonly rounds: number;
  readonly adamw: { readonly tensors: number; readonly elements: number };
  readonly kernels: readonly KernelCase[];
  /** Tokens of a prompt, so rows of its features. */
  readonly text_tokens: number;
  /** `padded` is what the released program fills every prompt up to. */
  readonly text_encoder: Partial<T5Config> & { readonly padded: number };
  readonly model: Partial<InfinityConfig> & { readonly size: InfinitySize };
  /** Of a code. */
  readonly bits: number;
  readonly block: { readonly scales: number };
  readonly pictures: readonly { readonly name: string; readonly scales: number }[];
  readonly training: { readonly scales: number; readonly batch: number };
}

/** Ends the names of what goes by the fastest way of every product; those of one way end in `, by WAY`. */
export const FASTEST = ', by the fastest';

/** Of a result, its name whichever way it went. */
export const caseName = (name: string): string => name.replace(/, by [a-z ]+$/, '');

interface CaseFile {
  /** Sides of the square grids of all scales, coarse to fine. */
  readonly sides: readonly number[];
  readonly full: Cases;
  readonly short: Cases;
}

const FILE = JSON.parse(readFileSync(new URL('cases.json', import.meta.url), 'utf8')) as CaseFile;

export const casesOf = (short: boolean): Cases => (short ? FILE.short : FILE.full);

/** The first scales of a square picture. */
export const squareSchedule = (scales: number): ScaleSchedule =>
  FILE.sides.slice(0, scales).map((side) => [1, side, side] as const);

export const textConfig = ({ text_encoder }: Cases): T5Config => parseT5Config(text_encoder);

export function modelConfig({ model, bits }: Cases, scales: number): InfinityConfig {
  const { size, ...overrides } = model;
  return officialInfinityConfig(size, {
    ...overrides,
    vae_embed_dim: bits,
    scale_schedules: [squareSchedule(scales)],
  });
}
