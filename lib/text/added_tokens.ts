/** Tokens that are cut out of the text whole, before the model sees the rest. */
import { type AddedTokenJson, expectTokenizer } from './tokenizer_json.js';

/** Either plain text or an added token's id. */
export type Segment = { readonly text: string; readonly at: number } | { readonly id: number };

/** Many times the largest vocabulary: an id is a row of a table. */
const MAX_ID = 2 ** 24;

const WORD = /[\p{L}\p{M}\p{N}_]/u;
/** Unlike \s it holds U+0085 and leaves U+FEFF out, as the Hugging Face library does. */
const WHITE_SPACE = /\p{White_Space}/u;

function escapeRegex(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
}

export class AddedTokens {
  private readonly byContent = new Map<string, AddedTokenJson>();
  private readonly pattern: RegExp | undefined;

  /** @throws InfinityError CHECKPOINT_INVALID for a malformed token */
  constructor(tokens: readonly AddedTokenJson[]) {
    for (const token of tokens) {
      const isId = Number.isInteger(token?.id) && token.id >= 0 && token.id < MAX_ID;
      expectTokenizer(isId, `an id below ${MAX_ID} for every added token`, token?.id);
      expectTokenizer(
        typeof token.content === 'string' && token.content !== '',
        'a content for every added token',
        token.content,
      );
      this.byContent.set(token.content, token);
    }
    // Leftmost first; of several at one place the longest.
    const contents = [...this.byContent.keys()].sort((a, b) => b.length - a.length);
    if (contents.length > 0) this.pattern = new RegExp(contents.map(escapeRegex).join('|'), 'gu');
  }

  /** Cuts the text at every added token. Empty stretches are left out; `at` is a stretch's place in `text`. */
  split(text: string): Segment[] {
    if (!this.pattern) return text === '' ? [] : [{ text, at: 0 }];
    const segments: Segment[] = [];
    let from = 0;
    const push = (to: number) => {
      if (to > from) segments.push({ text: text.slice(from, to), at: from });
    };
    for (const match of text.matchAll(this.pattern)) {
      const token = this.byContent.get(match[0]);
      let [begin, end] = [match.index, match.index + match[0].length];
      if (!token || (token.single_word && (WORD.test(text[begin - 1] ?? '') || WORD.test(text[end] ?? '')))) continue;
      if (token.lstrip) while (begin > from && WHITE_SPACE.test(text[begin - 1])) begin--;
      if (token.rstrip) while (end < text.length && WHITE_SPACE.test(text[end])) end++;
      push(begin);
      segments.push({ id: token.id });
      from = end;
    }
    push(text.length);
    return segments;
  }
}
