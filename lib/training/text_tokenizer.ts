/** The text tokenizer of a training: that of the checkpoint it starts from, or one made from the words of its dataset. */
import { createHash } from 'node:crypto';
import type { DatasetSource } from '../data/dataset.js';
import { grammarVocabulary } from '../data/shapes/index.js';
import { invalidArgument } from '../errors.js';
import type { Checkpoint } from '../io/checkpoint.js';
import { TextTokenizer } from '../text/tokenizer.js';
import { buildUnigramVocabulary, captionWords } from '../text/vocabulary.js';

/** Words that are tokens of their own where the config does not say how many. */
const VOCABULARY_LIMIT = 8192;

/** A text tokenizer and where it is from. */
export interface TextTokenizerChoice {
  readonly tokenizer: TextTokenizer;
  /** Of a tokenizer that does not follow from the dataset: a resumed run needs the same checkpoint to start from. */
  readonly digest?: string;
}

function* captionsOf({ listing }: DatasetSource): Generator<string> {
  for (const { captions } of listing?.rows ?? []) if (captions) yield* [captions.long, captions.short];
}

function made(source: DatasetSource, limit: number | undefined): TextTokenizer {
  if (source.listing) {
    const { words, characters } = captionWords(captionsOf(source), limit ?? VOCABULARY_LIMIT);
    return new TextTokenizer(buildUnigramVocabulary(words, characters));
  }
  if (limit !== undefined)
    invalidArgument('vocabulary_limit', 'no such field', limit, 'Leave it out: the words of this dataset are known.');
  return new TextTokenizer(buildUnigramVocabulary(grammarVocabulary()));
}

/**
 * @param limit most words that are tokens of their own
 * @param init its tokenizer is kept, since its text encoder knows no other
 * @throws InfinityError INVALID_ARGUMENT, CHECKPOINT_INVALID
 */
export async function chooseTextTokenizer(
  source: DatasetSource,
  { limit, init }: { limit: number | undefined; init: Checkpoint | undefined },
): Promise<TextTokenizerChoice> {
  const own = made(source, limit);
  if (!init) return { tokenizer: own };
  const tokenizer = await TextTokenizer.fromFile(init.tokenizerPath);
  const text = JSON.stringify(tokenizer.json);
  if (text === JSON.stringify(own.json)) return { tokenizer };
  return { tokenizer, digest: createHash('sha256').update(text).digest('hex') };
}
