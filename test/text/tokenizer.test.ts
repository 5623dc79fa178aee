import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { tokenizerFromSentencePiece } from '../../lib/text/sentencepiece.js';
import { TextTokenizer } from '../../lib/text/tokenizer.js';
import type { TokenizerJson } from '../../lib/text/tokenizer_json.js';
import { readGoldenJson, requireGolden } from '../support/goldens.js';

interface Golden {
  vocab_size_with_extra_ids: number;
  truncate_to: number;
  tokenizers: {
    file: string;
    cases: {
      text: string;
      ids: number[];
      pieces: string[] | null;
      truncated_512_length: number;
      truncated_512_ids_tail: number[];
    }[];
  }[];
}

const FOLDER = 'transformer/f_tokenizer';

describe('text tokenizer', () => {
  it('gives the ids and pieces of the reference for every vocabulary, whole and cut', function () {
    const golden = readGoldenJson<Golden>(this, `${FOLDER}/expected.json`);
    assert.equal(golden.tokenizers.length, 3);
    for (const { file, cases } of golden.tokenizers) {
      const tokenizer = new TextTokenizer(readGoldenJson<TokenizerJson>(this, `${FOLDER}/${file}`));
      assert.equal(tokenizer.vocabularySize, golden.vocab_size_with_extra_ids);
      assert.equal(cases.length, 20);
      for (const { text, ids, pieces, truncated_512_length, truncated_512_ids_tail: tail } of cases) {
        const whole = tokenizer.encode(text);
        assert.deepEqual(whole.ids, ids, `${file}: ${text}`);
        assert.equal(whole.fullLength, ids.length);
        if (pieces)
          assert.deepEqual(
            whole.ids.map((id) => tokenizer.pieceOf(id)),
            pieces,
          );
        const cut = tokenizer.encode(text, { maxLength: golden.truncate_to });
        assert.equal(cut.ids.length, truncated_512_length);
        assert.deepEqual(cut.ids.slice(-tail.length), tail);
        assert.equal(cut.fullLength, ids.length);
      }
    }
  });

  it('reads the same vocabulary out of the sentencepiece container', function () {
    const read = tokenizerFromSentencePiece(readFileSync(requireGolden(this, `${FOLDER}/spiece.model`)));
    const expected = readGoldenJson<TokenizerJson>(this, `${FOLDER}/tokenizer_B.json`);
    assert.deepEqual(JSON.parse(JSON.stringify(read)), expected);
  });

  it('a damaged container is refused, never a crash', function () {
    const good = readFileSync(requireGolden(this, `${FOLDER}/spiece.model`));
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.nat(255), fc.nat(good.length), (at, byte, length) => {
        const bytes = Buffer.from(good.subarray(0, length));
        if (at < length) bytes[at] = byte;
        try {
          new TextTokenizer(tokenizerFromSentencePiece(bytes)).encode('Ａ small ﬁsh');
        } catch (error) {
          assert.equal((error as { code?: string }).code, 'CHECKPOINT_INVALID');
        }
      }),
    );
    assert.throws(() => tokenizerFromSentencePiece(new Uint8Array(0)), { code: 'CHECKPOINT_INVALID' });
  });

  it('any text gives ids of the vocabulary, ended and within the bound', function () {
    const tokenizer = new TextTokenizer(readGoldenJson<TokenizerJson>(this, `${FOLDER}/tokenizer_A.json`));
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.integer({ min: 1, max: 40 }), (text, maxLength) => {
        const { ids, fullLength } = tokenizer.encode(text, { maxLength });
        assert.equal(ids.at(-1), 1);
        assert.equal(ids.length, Math.min(fullLength, maxLength));
        assert.ok(ids.every((id) => tokenizer.pieceOf(id) !== undefined));
      }),
    );
    assert.deepEqual(tokenizer.encode('a cat \ud800').ids, tokenizer.encode('a cat \ufffd').ids);
  });

  it('decodes what it encoded, without special tokens', function () {
    const tokenizer = new TextTokenizer(readGoldenJson<TokenizerJson>(this, `${FOLDER}/tokenizer_A.json`));
    const text = 'a photo of a cat and the sign';
    assert.equal(tokenizer.decode(tokenizer.encode(text).ids), text);
  });

  it('cuts added tokens out as their flags say', function () {
    const base = readGoldenJson<TokenizerJson>(this, `${FOLDER}/tokenizer_A_nomap.json`);
    const token = {
      id: 300,
      content: 'cat',
      single_word: true,
      lstrip: true,
      rstrip: true,
      normalized: true,
      special: false,
    };
    const tokenizer = new TextTokenizer({ ...base, added_tokens: [...base.added_tokens, token] });
    const encode = (text: string) => tokenizer.encode(text).ids;
    const plain = (text: string) => new TextTokenizer(base).encode(text).ids.slice(0, -1);
    assert.deepEqual(encode('a  cat  of'), [...plain('a'), 300, ...plain('of'), 1]);
    assert.deepEqual(encode('a cats'), [...plain('a cats'), 1]);
    assert.equal(tokenizer.idOf('cat'), 300);
    assert.equal(tokenizer.vocabularySize, 301);
  });

  it('malformed descriptions and arguments are refused by name', function () {
    const base = readGoldenJson<TokenizerJson>(this, `${FOLDER}/tokenizer_B.json`);
    const model = { ...base.model };
    const metaspace = { type: 'Metaspace', replacement: '__' };
    const special_tokens = { x: { id: 'x', ids: [2 ** 31], tokens: ['x'] } };
    const withTemplate = (single: unknown[]) => ({
      ...base,
      post_processor: { type: 'TemplateProcessing', single, special_tokens },
    });
    const bad: [unknown, RegExp][] = [
      [null, /an object/],
      [{ ...base, model: { ...model, type: 'BPE' } }, /Unigram/],
      [{ ...base, model: { ...model, unk_id: 999 } }, /unk_id/],
      [{ ...base, model: { ...model, vocab: [['a']] } }, /score/],
      [{ ...base, model: { ...model, byte_fallback: true } }, /byte_fallback/],
      [{ ...base, normalizer: { type: 'Nmt' } }, /normalizer/],
      [{ ...base, normalizer: { type: 'Precompiled', precompiled_charsmap: 'AAAA' } }, /precompiled_charsmap/],
      [{ ...base, normalizer: { type: 'Replace', pattern: { Regex: '(a+)+$' }, content: '' } }, /pattern/],
      [{ ...base, pre_tokenizer: { type: 'ByteLevel' } }, /pre_tokenizer/],
      [{ ...base, pre_tokenizer: metaspace }, /replacement/],
      [{ ...base, post_processor: { type: 'RobertaProcessing' } }, /post_processor/],
      [{ ...base, added_tokens: [{ id: -1, content: 'x' }] }, /added token/],
      [{ ...base, added_tokens: [{ id: 2 ** 53, content: 'x' }] }, /below 16777216/],
      [{ ...base, added_tokens: [null] }, /added_tokens/],
      [withTemplate([7]), /items in the template/],
      [withTemplate([{ SpecialToken: { id: 'x' } }]), /ids of the vocabulary/],
      [
        { ...base, normalizer: { type: 'Replace', pattern: { String: 'a' }, content: 'a'.repeat(17) } },
        /16 characters/,
      ],
      [{ ...base, normalizer: { type: 'Sequence', normalizers: Array(300).fill({ type: 'NFC' }) } }, /256 normalizers/],
    ];
    for (const [json, message] of bad) {
      assert.throws(
        () => new TextTokenizer(json as TokenizerJson),
        { code: 'CHECKPOINT_INVALID', message },
        String(message),
      );
    }
    const double = { type: 'Replace', pattern: { String: 'a' }, content: 'aa' } as const;
    const nested = Array(60)
      .fill(double)
      .reduce((inner, step) => ({ type: 'Sequence', normalizers: [step, inner] }), double);
    const exploding = new TextTokenizer({ ...base, normalizer: nested });
    assert.throws(() => exploding.encode('a'), { code: 'CHECKPOINT_INVALID', message: /multiply a text/ });
    const tokenizer = new TextTokenizer(base);
    assert.throws(() => tokenizer.encode(7 as unknown as string), { code: 'INVALID_ARGUMENT' });
    assert.throws(() => tokenizer.encode('a', { maxLength: 0 }), { code: 'INVALID_ARGUMENT' });
    assert.throws(() => tokenizer.encode('a', { maxLength: Number.NaN }), { code: 'INVALID_ARGUMENT' });
  });

  it('a missing or foreign file is named', async function () {
    await assert.rejects(TextTokenizer.fromFile('/no/such/tokenizer.json'), {
      code: 'MODEL_NOT_FOUND',
      message: /no.such/,
    });
    const foreign = requireGolden(this, `${FOLDER}/README.md`);
    await assert.rejects(TextTokenizer.fromFile(foreign), { code: 'CHECKPOINT_INVALID', message: /README/ });
  });
});
