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

type Field = { readonly number: number; readonly value: number | Uint8Array };

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

/** Walks over one message. Varints beyond 2^53 lose precision, which only negative numbers have here. */
function* fields(bytes: Uint8Array): Generator<Field> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      if (at >= bytes.byteLength) break;
      const byte = bytes[at++];
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw invalid('a whole number', at);
  };
  const take = (count: number) => {
    if (at + count > bytes.byteLength) throw invalid(`${count} more bytes`, bytes.byteLength - at);
    at += count;
    return at - count;
  };
  while (at < bytes.byteLength) {
    const key = varint();
    const number = Math.floor(key / 8);
    switch (key % 8) {
      case 0:
        yield { number, value: varint() };
        break;
      case 1:
        yield { number, value: view.getFloat64(take(8), true) };
        break;
      case 2: {
        const length = varint();
        const from = take(length);
        yield { number, value: bytes.subarray(from, from + length) };
        break;
      }
      case 5:
        yield { number, value: view.getFloat32(take(4), true) };
        break;
      default:
        throw invalid('a known field', key);
    }
  }
}

/** The last value of a field of a message, which is the one that counts. */
function fieldOf(message: number | Uint8Array, wanted: number): number | Uint8Array | undefined {
  if (typeof message === 'number') throw invalid('a message', message);
  let found: number | Uint8Array | undefined;
  for (const { number, value } of fields(message)) if (number === wanted) found = value;
  return found;
}

type Piece = readonly [text: string, score: number];

const utf8 = new TextDecoder();

function parsePiece(message: number | Uint8Array): { readonly piece: Piece; readonly type: number } {
  if (typeof message === 'number') throw invalid('a message', message);
  let text: number | Uint8Array | undefined;
  let score: number | Uint8Array = 0;
  let type: number | Uint8Array = PIECE_TYPE.normal;
  for (const { number, value } of fields(message)) {
    if (number === PIECE.text) text = value;
    else if (number === PIECE.score) score = value;
    else if (number === PIECE.type) type = value;
  }
  if (!(text instanceof Uint8Array) || typeof score !== 'number' || typeof type !== 'number')
    throw invalid('a piece', text);
  if (type === PIECE_TYPE.byte) throw invalid('a vocabulary without byte pieces', type);
  return { piece: [utf8.decode(text), score], type };
}

/**
 * The `tokenizer.json` of a T5 `spiece.model`: character map, strip on the right, runs of spaces to one marker,
 * metaspace, and the hundred `<extra_id_N>` behind the vocabulary.
 *
 * @throws InfinityError CHECKPOINT_INVALID for anything that is not a unigram model of that kind
 */
export function tokenizerFromSentencePiece(bytes: Uint8Array): TokenizerJson {
  const vocab: Piece[] = [];
  const special: AddedTokenJson[] = [];
  let [unknownId, endId] = [-1, -1];
  let charsmap: Uint8Array | undefined;
  for (const { number, value } of fields(bytes)) {
    if (number === MODEL.piece) {
      const { piece, type } = parsePiece(value);
      const [text] = piece;
      const id = vocab.push(piece) - 1;
      if (type !== PIECE_TYPE.normal) special.push(specialToken(id, text));
      if (type === PIECE_TYPE.unknown && unknownId < 0) unknownId = id;
      if (type === PIECE_TYPE.control && text === '</s>' && endId < 0) endId = id;
    }
    if (number === MODEL.trainer) {
      const type = fieldOf(value, TRAINER.modelType) ?? UNIGRAM;
      if (type !== UNIGRAM) throw invalid('a unigram model', type);
    }
    if (number === MODEL.normalizer) {
      const map = fieldOf(value, NORMALIZER.charsmap);
      if (map instanceof Uint8Array && map.length > 0) charsmap = map;
    }
  }
  if (unknownId < 0 || endId < 0) throw invalid('an unknown piece and an end marker', vocab.length);
  const extras = Array.from({ length: EXTRA_IDS }, (_, i) => `<extra_id_${EXTRA_IDS - 1 - i}>`);
  for (const text of extras) special.push(specialToken(vocab.push([text, 0]) - 1, text));
  const normalizers: NormalizerJson[] = [
    { type: 'Strip', strip_left: false, strip_right: true },
    { type: 'Replace', pattern: { Regex: ' {2,}' }, content: '▁' },
  ];
  if (charsmap) {
    normalizers.unshift({ type: 'Precompiled', precompiled_charsmap: Buffer.from(charsmap).toString('base64') });
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
