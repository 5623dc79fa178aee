/** Text to token ids and back, from a Hugging Face `tokenizer.json` that holds a unigram model. */
import { readFile } from 'node:fs/promises';
import { InfinityError, invalidArgument } from '../errors.js';
import { parseJson } from '../io/json.js';
import { AddedTokens } from './added_tokens.js';
import { buildNormalizer, type Normalizer } from './normalizer.js';
import { buildPreTokenizer, type PreTokenizer } from './pre_tokenizer.js';
import { expectTokenizer, invalidTokenizer, type TokenizerJson } from './tokenizer_json.js';
import { UnigramModel } from './unigram.js';

export interface Encoding {
  /** End marker included. */
  readonly ids: readonly number[];
  /** Number of ids before truncation. */
  readonly fullLength: number;
}

/** A unigram tokenizer as a `tokenizer.json` describes it. */
export class TextTokenizer {
  /** The description this tokenizer was built from, for writing it into a checkpoint. */
  readonly json: TokenizerJson;
  private readonly model: UnigramModel;
  private readonly normalize: Normalizer;
  private readonly preTokenize: PreTokenizer;
  private readonly rawTokens: AddedTokens;
  private readonly normalizedTokens: AddedTokens;
  private readonly contents: ReadonlyMap<number, string>;
  private readonly specialIds: ReadonlySet<number>;
  private readonly prefix: readonly number[];
  private readonly suffix: readonly number[];

  /** @throws InfinityError CHECKPOINT_INVALID naming the part that is malformed or unsupported */
  constructor(json: TokenizerJson) {
    expectTokenizer(typeof json === 'object' && json !== null, 'an object', json);
    const added = json.added_tokens ?? [];
    expectTokenizer(Array.isArray(added) && added.every(isObject), 'a list of added_tokens', added);
    this.json = json;
    this.model = new UnigramModel(json.model);
    this.normalize = buildNormalizer(json.normalizer);
    this.preTokenize = buildPreTokenizer(json.pre_tokenizer);
    this.rawTokens = new AddedTokens(added.filter(({ normalized }) => !normalized));
    this.normalizedTokens = new AddedTokens(added.filter(({ normalized }) => normalized));
    this.contents = new Map(added.map(({ id, content }) => [id, content]));
    this.specialIds = new Set(added.filter(({ special }) => special).map(({ id }) => id));
    [this.prefix, this.suffix] = templateIds(json, this.vocabularySize);
  }

  /** Reads a `tokenizer.json`. */
  static async fromFile(path: string): Promise<TextTokenizer> {
    let text: string;
    try {
      text = await readFile(path, 'utf8');
    } catch (cause) {
      throw new InfinityError('MODEL_NOT_FOUND', `Cannot read the text tokenizer ${path}.`, {
        value: path,
        cure: 'Check that the checkpoint is complete.',
        cause,
      });
    }
    return TextTokenizer.parse(text, path);
  }

  /**
   * A tokenizer out of the text of a `tokenizer.json`.
   *
   * @param name of the file, for messages
   * @throws InfinityError CHECKPOINT_INVALID naming the part that is malformed or unsupported
   */
  static parse(text: string, name = 'tokenizer.json'): TextTokenizer {
    const refuse = (what: string) => invalidTokenizer(`JSON (${name} ${what})`, text.slice(0, 40));
    return new TextTokenizer(parseJson(text, refuse) as TokenizerJson);
  }

  /** Number of ids, added tokens included: rows of the embedding table. */
  get vocabularySize(): number {
    let size = this.model.size;
    for (const id of this.contents.keys()) size = Math.max(size, id + 1);
    return size;
  }

  /** The piece or added token of an id, or undefined. */
  pieceOf(id: number): string | undefined {
    return this.contents.get(id) ?? this.model.pieceOf(id);
  }

  /** The id of a piece or added token, or undefined. */
  idOf(piece: string): number | undefined {
    for (const [id, content] of this.contents) if (content === piece) return id;
    return this.model.idOf(piece);
  }

  /**
   * Ids of a text, with the marks of the template (T5: the end marker) around them. `maxLength` bounds the number of
   * ids: the text's end is cut, the marks stay.
   */
  encode(text: string, options: { readonly maxLength?: number } = {}): Encoding {
    const { maxLength = Number.POSITIVE_INFINITY } = options;
    const marks = this.prefix.length + this.suffix.length;
    if (!(maxLength >= marks)) invalidArgument('maxLength', `a number of at least ${marks}`, maxLength);
    if (typeof text !== 'string') invalidArgument('text', 'a string', text);
    const body = this.encodeBody(text.replace(/\p{Surrogate}/gu, '\uFFFD'));
    const ids = [...this.prefix, ...body.slice(0, maxLength - marks), ...this.suffix];
    return { ids, fullLength: body.length + marks };
  }

  private encodeBody(text: string): number[] {
    const ids: number[] = [];
    for (const segment of this.rawTokens.split(text)) {
      if ('id' in segment) {
        ids.push(segment.id);
        continue;
      }
      for (const part of this.normalizedTokens.split(this.normalize(segment.text))) {
        if ('id' in part) ids.push(part.id);
        else {
          const first = segment.at === 0 && part.at === 0;
          for (const word of this.preTokenize([{ text: part.text, first }])) {
            for (const id of this.model.encode(word.text)) ids.push(id);
          }
        }
      }
    }
    return ids;
  }

  /** The text of ids, without special tokens. Normalisation cannot be undone. */
  decode(ids: readonly number[]): string {
    const pieces = ids.filter((id) => !this.specialIds.has(id)).map((id) => this.pieceOf(id) ?? '');
    return pieces.join('').replaceAll('▁', ' ').replace(/^ /, '');
  }
}

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null;
}

/** Ids that the template puts before and after a single text. */
function templateIds(
  { post_processor: template }: TokenizerJson,
  vocabularySize: number,
): [prefix: number[], suffix: number[]] {
  const isKnown = (id: number): boolean => Number.isInteger(id) && id >= 0 && id < vocabularySize;
  const marks: [number[], number[]] = [[], []];
  if (!template) return marks;
  expectTokenizer(template.type === 'TemplateProcessing', 'a TemplateProcessing post_processor', template.type);
  expectTokenizer(Array.isArray(template.single), 'a template for single texts', template.single);
  let side = 0;
  for (const item of template.single) {
    expectTokenizer(isObject(item), 'items in the template', item);
    if ('Sequence' in item) side = 1;
    else {
      const ids = template.special_tokens?.[item.SpecialToken?.id]?.ids;
      expectTokenizer(
        Array.isArray(ids) && ids.every(isKnown),
        'ids of the vocabulary for every special token of the template',
        item,
      );
      for (const id of ids) marks[side].push(id);
    }
  }
  return marks;
}
