/**
 * The sentencepiece container (`spiece.model`), a protocol buffer, read into the `tokenizer.json` form that T5 uses.
 * Field numbers: sentencepiece_model.proto of the sentencepiece project.
 */
import { describe, InfinityError } from '../errors.js';
import type { AddedTokenJson, NormalizerJson, TokenizerJson } from './tokenizer_json.js';
import { assembleTokenizer, specialToken } from './vocabulary.js';

const MODEL = { piece: 1, trainer: 2, normalizer: 3 } as const;
const PIECE = { text: 1, score: 2, type: 3 } as const;
const TRAINER = { modelType: 3 } as const;
const NORMALIZER = { charsmap: 2 } as const;
const PIECE_TYPE = { normal: 1, unknown: 2, control: 3, byte: 6 } as const;
const UNIGRAM = 1;
/** T5's span markers, appended behind the vocabulary: the first one gets the highest id. */
const EXTRA_IDS = 100;

function invalid(what: string, found: unknown): InfinityError {
  return new InfinityError(
    'CHECKPOINT_INVALID',
    `Expected ${what} in the sentencepiece model but received ${describe(found)}.`,
    {
      value: found,
      cure: 'Use the spiece.model that belongs to the text encoder.',
    },
  );
}

/**
 * Walks over the fields of one message after the other and makes no object of a field: a vocabulary has many thousands, in files
 * not much larger. Varints beyond 2^53 lose precision, which only negative numbers have here.
 */
class MessageCursor {
  /** The field that `next` has found: its number, and a number or a range of bytes. */
  field = 0;
  isBytes = false;
  scalar = 0;
  from = 0;
  to = 0;
  private at = 0;
  private end = 0;

  constructor(
    private readonly bytes: Buffer,
    private readonly view: DataView,
  ) {}

  /** Starts on the message in [from, to). */
  open(from: number, to: number): this {
    this.at = from;
    this.end = to;
    return this;
  }

  /** Starts on the message that another cursor has found. */
  enter(outer: MessageCursor): this {
    if (!outer.isBytes) throw invalid('a message', outer.scalar);
    return this.open(outer.from, outer.to);
  }

  /** Goes to the next field; false at the end of the message. */
  next(): boolean {
    if (this.at >= this.end) return false;
    const key = this.varint();
    this.field = Math.floor(key / 8);
    this.isBytes = key % 8 === 2;
    switch (key % 8) {
      case 0:
        this.scalar = this.varint();
        break;
      case 1:
        this.scalar = this.view.getFloat64(this.take(8), true);
        break;
      case 2: {
        const length = this.varint();
        this.from = this.take(length);
        this.to = this.at;
        break;
      }
      case 5:
        this.scalar = this.view.getFloat32(this.take(4), true);
        break;
      default:
        throw invalid('a known field', key);
    }
    return true;
  }

  /** The bytes of the field as text. */
  text(): string {
    return this.bytes.toString('utf8', this.from, this.to);
  }

  private varint(): number {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      if (this.at >= this.end) break;
      const byte = this.bytes[this.at++]!;
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw invalid('a whole number', this.at);
  }

  private take(count: number): number {
    if (this.at + count > this.end) throw invalid(`${count} more bytes`, this.end - this.at);
    this.at += count;
    return this.at - count;
  }
}

type Piece = readonly [text: string, score: number];

/** Puts the piece in the message of `cursor` into `vocab[id]`; of a repeated field the last value counts. Returns its type. */
function readPiece(cursor: MessageCursor, vocab: Piece[], id: number): number {
  let text: string | undefined;
  let score = 0;
  let type: number = PIECE_TYPE.normal;
  while (cursor.next()) {
    const { field, isBytes } = cursor;
    if (field !== PIECE.text && field !== PIECE.score && field !== PIECE.type) continue;
    if (isBytes !== (field === PIECE.text)) throw invalid('a piece', `field ${field} of another kind`);
    if (field === PIECE.text) text = cursor.text();
    else if (field === PIECE.score) score = cursor.scalar;
    else type = cursor.scalar;
  }
  if (text === undefined) throw invalid('a piece', text);
  if (type === PIECE_TYPE.byte) throw invalid('a vocabulary without byte pieces', type);
  vocab[id] = [text, score];
  return type;
}

/**
 * The `tokenizer.json` of a T5 `spiece.model`: character map, strip on the right, runs of spaces to one marker,
 * metaspace, and the hundred `<extra_id_N>` behind the vocabulary.
 *
 * @throws InfinityError CHECKPOINT_INVALID for anything that is not a unigram model of that kind
 */
export function tokenizerFromSentencePiece(bytes: Uint8Array): TokenizerJson {
  const special: AddedTokenJson[] = [];
  let [unknownId, endId] = [-1, -1];
  let charsmap: Buffer | undefined;
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const model = new MessageCursor(buffer, view).open(0, bytes.byteLength);
  const part = new MessageCursor(buffer, view);
  // Counted first: a list that grows leaves its shorter copies behind.
  let count = 0;
  while (model.next()) if (model.field === MODEL.piece) count++;
  const vocab = new Array<Piece>(count + EXTRA_IDS);
  let id = 0;
  model.open(0, bytes.byteLength);
  while (model.next()) {
    if (model.field === MODEL.piece) {
      const type = readPiece(part.enter(model), vocab, id);
      const text = vocab[id]![0];
      if (type !== PIECE_TYPE.normal) special.push(specialToken(id, text));
      if (type === PIECE_TYPE.unknown && unknownId < 0) unknownId = id;
      if (type === PIECE_TYPE.control && text === '</s>' && endId < 0) endId = id;
      id++;
    } else if (model.field === MODEL.trainer) {
      part.enter(model);
      while (part.next())
        if (part.field === TRAINER.modelType && (part.isBytes || part.scalar !== UNIGRAM))
          throw invalid('a unigram model', part.isBytes ? 'bytes' : part.scalar);
    } else if (model.field === MODEL.normalizer) {
      part.enter(model);
      while (part.next())
        if (part.field === NORMALIZER.charsmap && part.isBytes && part.to > part.from)
          charsmap = buffer.subarray(part.from, part.to);
    }
  }
  if (unknownId < 0 || endId < 0) throw invalid('an unknown piece and an end marker', count);
  for (let extra = EXTRA_IDS - 1; extra >= 0; extra--, id++) {
    const text = `<extra_id_${extra}>`;
    vocab[id] = [text, 0];
    special.push(specialToken(id, text));
  }
  const normalizers: NormalizerJson[] = [
    { type: 'Strip', strip_left: false, strip_right: true },
    { type: 'Replace', pattern: { Regex: ' {2,}' }, content: '▁' },
  ];
  if (charsmap) {
    normalizers.unshift({ type: 'Precompiled', precompiled_charsmap: charsmap.toString('base64') });
  }
  return assembleTokenizer({
    vocab,
    unknownId,
    end: { id: endId, content: '</s>' },
    addedTokens: special,
    normalizer: { type: 'Sequence', normalizers },
    preTokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true },
  });
}
