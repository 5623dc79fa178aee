/** The two files that a text tokenizer comes in. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { tokenizerFromSentencePiece } from '../../../lib/text/sentencepiece.js';
import { TextTokenizer } from '../../../lib/text/tokenizer.js';
import { buildUnigramVocabulary } from '../../../lib/text/vocabulary.js';
import { goldenPath } from '../../support/goldens.js';
import { mutateJson } from '../mutate.js';
import type { Random } from '../random.js';
import type { FuzzTarget } from '../target.js';

const TEXTS = ['a red circle above  a blue square', 'ﬁné ½ 猫 </s><extra_id_0>  ', 'ABC\0\ud800 \u0301', ''];

function use(tokenizer: TextTokenizer): readonly (readonly number[])[] {
  return TEXTS.map((text) => {
    const { ids } = tokenizer.encode(text);
    for (const id of ids) assert.ok(Number.isInteger(id) && id >= 0 && id < tokenizer.vocabularySize, `id ${id}`);
    tokenizer.decode(ids);
    assert.ok(tokenizer.encode(text, { maxLength: 64 }).ids.length <= 64);
    return ids;
  });
}

/** The recorded tokenizers are small and hold what T5's do, a real character map included. */
function recorded(name: string): Uint8Array[] {
  const path = goldenPath(`transformer/f_tokenizer/${name}`);
  return path === undefined ? [] : [readFileSync(path)];
}

export const tokenizer: FuzzTarget = {
  name: 'tokenizer',
  seeds() {
    const own = buildUnigramVocabulary(['red', 'circle', 'above', 'a', 'blue', 'square', '猫']);
    return [Buffer.from(JSON.stringify(own)), ...recorded('tokenizer_A.json'), ...recorded('tokenizer_B.json')];
  },
  read(file) {
    const read = TextTokenizer.parse(Buffer.from(file).toString('utf8'));
    const ids = use(read);
    // As text: JSON knows no negative zero.
    return () => assert.equal(JSON.stringify(use(TextTokenizer.parse(JSON.stringify(read.json)))), JSON.stringify(ids));
  },
  mutate: (random, file) => (random.chance(0.9) ? mutateJson(random, file) : mutateSteps(random)),
};

/** Steps that lengthen the text, one after the other or one in the other. */
function mutateSteps(random: Random): Uint8Array {
  const own = buildUnigramVocabulary(['red', 'circle']);
  const step = {
    type: 'Replace',
    pattern: { String: random.pick(['a', 'e', ' ', '']) },
    content: 'a'.repeat(random.below(20)),
  };
  const steps: object[] = Array.from({ length: random.below(60) }, () => step);
  const nested = steps.reduce((inner, s) => ({ type: 'Sequence', normalizers: [s, inner] }), step);
  const normalizer = random.chance(0.5) ? nested : { type: 'Sequence', normalizers: steps };
  const metaspace = { type: 'Metaspace', replacement: '▁', prepend_scheme: random.pick(['always', 'first', 'never']) };
  const preTokenizers = Array.from({ length: random.below(100) }, () => metaspace);
  return Buffer.from(
    JSON.stringify({ ...own, normalizer, pre_tokenizer: { type: 'Sequence', pretokenizers: preTokenizers } }),
  );
}

function field(number: number, body: Uint8Array): Buffer {
  const length = [];
  for (let left = body.byteLength; ; left >>>= 7) {
    length.push(left > 0x7f ? (left & 0x7f) | 0x80 : left);
    if (left <= 0x7f) break;
  }
  return Buffer.concat([Buffer.from([number * 8 + 2, ...length]), body]);
}

function piece(text: string, score: number, type: number): Buffer {
  const number = Buffer.alloc(5);
  number[0] = 2 * 8 + 5;
  number.writeFloatLE(score, 1);
  return field(1, Buffer.concat([field(1, Buffer.from(text)), number, Buffer.from([3 * 8, type])]));
}

function model(pieces: readonly (readonly [string, number, number])[], charsmap: Uint8Array): Buffer {
  const trainer = field(2, Buffer.from([3 * 8, 1]));
  return Buffer.concat([...pieces.map((p) => piece(...p)), trainer, field(3, field(2, charsmap))]);
}

const SPECIAL = [
  ['<pad>', 0, 3],
  ['</s>', 0, 3],
  ['<unk>', 0, 2],
] as const;
const WORDS = [...'abcdefghijklmnopqrstuvwxyz', '▁red', '▁circle', '▁'].map(
  (text, i) => [text, -1 - i / 8, 1] as const,
);

/** A model of many pieces, or of one with something odd in its fields. */
function mutateModel(random: Random): Uint8Array {
  const count = random.chance(0.05) ? 20_000 : random.below(300);
  const odd = random.chance(0.5) ? 0.01 : 0;
  const many = Array.from(
    { length: count },
    (_, i) => [`p${i.toString(36)}`, -i, random.chance(odd) ? random.below(8) : 1] as const,
  );
  const charsmap = Buffer.from(Array.from({ length: random.below(40) }, () => random.below(256)));
  const pieces = [...SPECIAL, ...(random.chance(0.5) ? WORDS : []), ...many];
  if (random.chance(0.2)) pieces.splice(random.below(pieces.length), 1);
  return model(pieces, charsmap);
}

export const spiece: FuzzTarget = {
  name: 'spiece',
  seeds: () => [model([...SPECIAL, ...WORDS], Buffer.alloc(0)), ...recorded('spiece.model')],
  read(file) {
    use(new TextTokenizer(tokenizerFromSentencePiece(file)));
  },
  mutate: (random, file) => (random.chance(0.5) ? mutateModel(random) : file),
};
