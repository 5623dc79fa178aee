/** Splitting normalised text into the words that the unigram model sees. */
import { expectTokenizer, invalidTokenizer, type PreTokenizerJson } from './tokenizer_json.js';

/** A stretch of text; `first` when it begins the whole input. */
export interface Word {
  readonly text: string;
  readonly first: boolean;
}

/** Of one sequence; T5 has two. */
const MAX_STEPS = 256;

export type PreTokenizer = (words: readonly Word[]) => Word[];

function splitWhitespace({ text, first }: Word): Word[] {
  return [...text.matchAll(/\P{White_Space}+/gu)].map((m) => ({ text: m[0], first: first && m.index === 0 }));
}

function metaspace(json: Extract<PreTokenizerJson, { type: 'Metaspace' }>): PreTokenizer {
  const { replacement, add_prefix_space: legacy, split = true } = json;
  expectTokenizer(
    typeof replacement === 'string' && [...replacement].length === 1,
    'one character as replacement',
    replacement,
  );
  const scheme = json.prepend_scheme ?? (legacy === false ? 'never' : 'always');
  expectTokenizer(['always', 'never', 'first'].includes(scheme), 'a prepend_scheme', scheme);
  return (words) =>
    words.flatMap(({ text, first }) => {
      const spaced = text.replaceAll(' ', replacement);
      const prepend = scheme === 'always' || (scheme === 'first' && first);
      const marked = prepend && spaced !== '' && !spaced.startsWith(replacement) ? replacement + spaced : spaced;
      if (!split) return [{ text: marked, first }];
      // The marker opens a word: cut before every one of them.
      const parts = marked.split(replacement);
      const words = parts.map((part, i) => ({ text: i === 0 ? part : replacement + part, first: first && i === 0 }));
      // Empty ones stay empty, and would double with every further step.
      return words[0]?.text === '' ? words.slice(1) : words;
    });
}

function build(json: PreTokenizerJson): PreTokenizer {
  switch (json?.type) {
    case 'Sequence': {
      expectTokenizer(Array.isArray(json.pretokenizers), 'a list of pretokenizers', json.pretokenizers);
      expectTokenizer(
        json.pretokenizers.length <= MAX_STEPS,
        `at most ${MAX_STEPS} pretokenizers`,
        json.pretokenizers.length,
      );
      const steps = json.pretokenizers.map(build);
      return (words) => steps.reduce((w, step) => step(w), [...words]);
    }
    case 'WhitespaceSplit':
      return (words) => words.flatMap(splitWhitespace);
    case 'Metaspace':
      return metaspace(json);
    default:
      throw invalidTokenizer('a known pre_tokenizer', (json as { type?: unknown } | null)?.type);
  }
}

/** @throws InfinityError CHECKPOINT_INVALID for an unknown or malformed pre-tokenizer */
export function buildPreTokenizer(json: PreTokenizerJson | null): PreTokenizer {
  const split: PreTokenizer = json ? build(json) : (words) => [...words];
  return (words) => split(words).filter(({ text }) => text !== '');
}
