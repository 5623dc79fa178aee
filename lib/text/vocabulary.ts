/** Making a `tokenizer.json`: its frame, and the vocabulary of a closed grammar (the embedded model) or of captions. */
import { invalidArgument } from '../errors.js';
import type { AddedTokenJson, NormalizerJson, PreTokenizerJson, TokenizerJson } from './tokenizer_json.js';

const MARK = '▁';
export const PAD_ID = 0;
export const END_ID = 1;
export const UNKNOWN_ID = 2;
const PAD = '<pad>';
const END = '</s>';
const UNKNOWN = '<unk>';

/** Log probabilities: a listed word in one piece always beats its letters, and every letter beats the unknown. */
const WORD_SCORE = -5;
const CHARACTER_SCORE = -12;

export function specialToken(id: number, content: string): AddedTokenJson {
  return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
}

export interface TokenizerParts {
  readonly vocab: ReadonlyArray<readonly [string, number]>;
  readonly unknownId: number;
  readonly end: { readonly id: number; readonly content: string };
  readonly addedTokens: readonly AddedTokenJson[];
  readonly normalizer: NormalizerJson | null;
  readonly preTokenizer: PreTokenizerJson;
}

/** A complete `tokenizer.json` whose template appends the end marker. */
export function assembleTokenizer(parts: TokenizerParts): TokenizerJson {
  const { id, content } = parts.end;
  const text = (name: string) => ({ Sequence: { id: name, type_id: 0 } });
  const mark = { SpecialToken: { id: content, type_id: 0 } };
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: parts.addedTokens,
    normalizer: parts.normalizer,
    pre_tokenizer: parts.preTokenizer,
    post_processor: {
      type: 'TemplateProcessing',
      single: [text('A'), mark],
      pair: [text('A'), mark, text('B'), mark],
      special_tokens: { [content]: { id: content, ids: [id], tokens: [content] } },
    },
    decoder: { type: 'Metaspace', replacement: MARK, prepend_scheme: 'always', split: true },
    model: { type: 'Unigram', unk_id: parts.unknownId, vocab: parts.vocab },
  };
}

const fold = (text: string): string =>
  text
    .replace(/\p{Surrogate}/gu, '\uFFFD')
    .normalize('NFKC')
    .toLowerCase();

/** Letters and digits, with the hyphens and apostrophes inside a word. */
const WORD = /[\p{L}\p{M}\p{N}]+(?:['’-][\p{L}\p{M}\p{N}]+)*/gu;

/** What captions are made of. */
export interface CaptionWords {
  /** The most frequent words, the first in the order of code units where they are equally frequent. */
  readonly words: readonly string[];
  readonly characters: readonly string[];
}

/** The `limit` most frequent words of captions, and all their characters. Equal captions in any order give equal ones. */
export function captionWords(captions: Iterable<string>, limit: number): CaptionWords {
  const counts = new Map<string, number>();
  const characters = new Set<string>();
  for (const caption of captions) {
    const text = fold(caption);
    for (const [word] of text.matchAll(WORD)) counts.set(word, (counts.get(word) ?? 0) + 1);
    for (const character of text) if (!/[\p{White_Space}▁]/u.test(character)) characters.add(character);
  }
  const frequent = [...counts].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1)).slice(0, limit);
  return { words: frequent.map(([word]) => word), characters: [...characters].sort() };
}

/**
 * A `tokenizer.json` for known words: one piece for every word, and single characters (printable ASCII, those of the
 * words and those given) for everything else. Upper case and compatibility forms are folded. Ids: 0 pad, 1 end, 2 unknown, then
 * the word mark, the words and the characters, in sorted order, so that equal word sets give equal ids.
 *
 * @throws InfinityError INVALID_ARGUMENT for an empty word or one that holds white space
 */
export function buildUnigramVocabulary(words: readonly string[], more: readonly string[] = []): TokenizerJson {
  const folded = new Set<string>();
  for (const word of words) {
    const text = fold(word);
    if (text === '' || /[\p{White_Space}▁]/u.test(text)) invalidArgument('words', 'words without white space', word);
    folded.add(text);
  }
  const ascii = Array.from({ length: 0x7f - 0x21 }, (_, i) => String.fromCharCode(0x21 + i).toLowerCase());
  const characters = new Set([...ascii, ...more, ...[...folded].flatMap((word) => [...word])]);
  const vocab: [string, number][] = [
    [PAD, 0],
    [END, 0],
    [UNKNOWN, 0],
    [MARK, WORD_SCORE],
    ...[...folded].sort().map((word): [string, number] => [MARK + word, WORD_SCORE]),
    ...[...characters].sort().map((character): [string, number] => [character, CHARACTER_SCORE]),
  ];
  return assembleTokenizer({
    vocab,
    unknownId: UNKNOWN_ID,
    end: { id: END_ID, content: END },
    addedTokens: [specialToken(PAD_ID, PAD), specialToken(END_ID, END), specialToken(UNKNOWN_ID, UNKNOWN)],
    normalizer: { type: 'Sequence', normalizers: [{ type: 'NFKC' }, { type: 'Lowercase' }] },
    preTokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'WhitespaceSplit' },
        { type: 'Metaspace', replacement: MARK, prepend_scheme: 'always', split: true },
      ],
    },
  });
}
