import assert from 'node:assert/strict';
import { TextTokenizer } from '../../lib/text/tokenizer.js';
import { buildUnigramVocabulary, captionWords, END_ID, PAD_ID, UNKNOWN_ID } from '../../lib/text/vocabulary.js';

describe('vocabulary of a closed grammar', () => {
  const words = ['red', 'circle', 'a', 'above', 'blue', 'square', 'Red'];
  const json = buildUnigramVocabulary(words);
  const tokenizer = new TextTokenizer(JSON.parse(JSON.stringify(json)));
  const pieces = (text: string) => tokenizer.encode(text).ids.map((id) => tokenizer.pieceOf(id));

  it('gives one piece a word, whatever the case', () => {
    assert.deepEqual(pieces('a red circle above a blue square'), [
      '▁a',
      '▁red',
      '▁circle',
      '▁above',
      '▁a',
      '▁blue',
      '▁square',
      '</s>',
    ]);
    assert.deepEqual(tokenizer.encode('  A  RED circle ').ids, tokenizer.encode('a red circle').ids);
  });

  it('spells what it does not know', () => {
    assert.deepEqual(pieces('reds, blau'), ['▁red', 's', ',', '▁', 'b', 'l', 'a', 'u', '</s>']);
    assert.deepEqual(tokenizer.encode('猫').ids, [tokenizer.idOf('▁'), UNKNOWN_ID, END_ID]);
  });

  it('does not depend on the order of the words', () => {
    assert.deepEqual(buildUnigramVocabulary([...words].reverse()), json);
    assert.equal(tokenizer.pieceOf(PAD_ID), '<pad>');
    assert.equal(new Set(json.model.vocab.map(([piece]) => piece)).size, tokenizer.vocabularySize);
  });

  it('refuses what is no word', () => {
    for (const word of ['', 'two words', '▁x']) {
      assert.throws(() => buildUnigramVocabulary([word]), { code: 'INVALID_ARGUMENT' }, word);
    }
  });
});

describe('vocabulary of captions', () => {
  const captions = [
    'A cat, on a mat.',
    "The cat's “well-fed” friend",
    'Ａ ｃａｔ ＩＮ ÉTÉ',
    '猫 ▁ sat\u00a0here',
    'lone \ud800 surrogate',
  ];

  it('counts folded words without their punctuation, the most frequent first', () => {
    const { words } = captionWords(captions, 3);
    // "a" three times, "cat" twice, then the first of those that come once.
    assert.deepEqual(words, ['a', 'cat', "cat's"]);
    const all = captionWords(captions, 100).words;
    assert.deepEqual(all.slice(2), [...all.slice(2)].sort());
    for (const word of ['well-fed', 'été', 'in', '猫', 'sat', 'here']) assert.ok(all.includes(word), word);
    assert.deepEqual(captionWords([...captions].reverse(), 3).words, words);
  });

  it('knows every character of the captions, also of words that are not listed', () => {
    const { words, characters } = captionWords(captions, 1);
    const tokenizer = new TextTokenizer(buildUnigramVocabulary(words, characters));
    for (const caption of captions.filter((text) => !text.includes('▁')))
      assert.ok(!tokenizer.encode(caption).ids.includes(UNKNOWN_ID), caption);
    assert.ok(!characters.some((character) => /[\s▁]/u.test(character)));
  });
});
