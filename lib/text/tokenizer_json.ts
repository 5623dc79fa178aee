/** The parts of the Hugging Face `tokenizer.json` format that T5-style unigram tokenizers use. */
import { describe, InfinityError } from '../errors.js';

export type NormalizerJson =
  | { readonly type: 'Sequence'; readonly normalizers: readonly NormalizerJson[] }
  | { readonly type: 'Precompiled'; readonly precompiled_charsmap: string }
  | { readonly type: 'Strip'; readonly strip_left: boolean; readonly strip_right: boolean }
  | {
      readonly type: 'Replace';
      readonly pattern: { readonly String: string } | { readonly Regex: string };
      readonly content: string;
    }
  | { readonly type: 'Lowercase' | 'NFC' | 'NFD' | 'NFKC' | 'NFKD' };

export type PreTokenizerJson =
  | { readonly type: 'Sequence'; readonly pretokenizers: readonly PreTokenizerJson[] }
  | { readonly type: 'WhitespaceSplit' }
  | {
      readonly type: 'Metaspace';
      readonly replacement: string;
      /** The older spelling: true is "always". */
      readonly add_prefix_space?: boolean;
      readonly prepend_scheme?: 'always' | 'never' | 'first';
      readonly split?: boolean;
    };

export interface AddedTokenJson {
  readonly id: number;
  readonly content: string;
  readonly single_word: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  readonly normalized: boolean;
  readonly special: boolean;
}

export type TemplateItemJson =
  | { readonly Sequence: { readonly id: string; readonly type_id: number } }
  | { readonly SpecialToken: { readonly id: string; readonly type_id: number } };

export interface PostProcessorJson {
  readonly type: 'TemplateProcessing';
  readonly single: readonly TemplateItemJson[];
  readonly pair: readonly TemplateItemJson[];
  readonly special_tokens: Readonly<
    Record<string, { readonly id: string; readonly ids: readonly number[]; readonly tokens: readonly string[] }>
  >;
}

export interface UnigramJson {
  readonly type: 'Unigram';
  readonly unk_id: number;
  readonly vocab: ReadonlyArray<readonly [piece: string, score: number]>;
  readonly byte_fallback?: boolean;
}

export interface TokenizerJson {
  readonly version: string;
  readonly truncation: unknown;
  readonly padding: unknown;
  readonly added_tokens: readonly AddedTokenJson[];
  readonly normalizer: NormalizerJson | null;
  readonly pre_tokenizer: PreTokenizerJson | null;
  readonly post_processor: PostProcessorJson | null;
  readonly decoder: unknown;
  readonly model: UnigramJson;
}

/** The error of every malformed or unsupported part: says what was expected where, and what stands there. */
export function invalidTokenizer(expected: string, found: unknown): InfinityError {
  return new InfinityError(
    'CHECKPOINT_INVALID',
    `Expected ${expected} in tokenizer.json but received ${describe(found)}.`,
    {
      value: found,
      cure: 'Use a T5-style unigram tokenizer in the Hugging Face format.',
    },
  );
}

/** `invalidTokenizer` unless the condition holds. */
export function expectTokenizer(condition: boolean, expected: string, found: unknown): asserts condition {
  if (!condition) throw invalidTokenizer(expected, found);
}
