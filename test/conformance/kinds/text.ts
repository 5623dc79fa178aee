/** Text tokenizer files: ids of every text with every vocabulary. */
import { readFileSync } from 'node:fs';
import { tokenizerFromSentencePiece } from '../../../lib/text/sentencepiece.js';
import { TextTokenizer } from '../../../lib/text/tokenizer.js';
import type { GoldenCase } from '../case.js';

interface TextItem {
  readonly text: string;
  readonly [key: string]: unknown;
}

interface TextFields {
  readonly tokenizers: readonly { readonly file: string; readonly cases: readonly TextItem[] }[];
  readonly truncate_to: number;
}

/** A `tokenizer.json`, or a vocabulary in the sentencepiece container. */
async function loadTokenizer(path: string): Promise<TextTokenizer> {
  if (path.endsWith('.model')) return new TextTokenizer(tokenizerFromSentencePiece(readFileSync(path)));
  return TextTokenizer.fromFile(path);
}

export async function textTokenizer(c: GoldenCase): Promise<void> {
  const { tokenizers, truncate_to } = c.fields<TextFields>();
  const sizes = new Set<number>();
  for (const [t, { file, cases }] of tokenizers.entries()) {
    const tokenizer = await loadTokenizer(c.file(file));
    sizes.add(tokenizer.vocabularySize);
    cases.forEach((item, i) => {
      const give = (key: string, value: unknown) => c.giveJson(['tokenizers', t, 'cases', i, key], value);
      const { ids } = tokenizer.encode(item.text);
      const cut = tokenizer.encode(item.text, { maxLength: truncate_to }).ids;
      give('ids', ids);
      give(
        'pieces',
        ids.map((id) => tokenizer.pieceOf(id)),
      );
      for (const [key, stored] of Object.entries(item)) {
        if (/^truncated_\d+_length$/.test(key)) give(key, cut.length);
        // The file keeps as many of the last ids as it likes.
        if (/^truncated_\d+_ids_tail$/.test(key)) give(key, cut.slice(-(stored as unknown[]).length));
      }
    });
  }
  const [size, ...others] = sizes;
  if (others.length === 0) c.giveJson(['vocab_size_with_extra_ids'], size);
}
