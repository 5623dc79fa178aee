import assert from 'node:assert/strict';
import { TextTokenizer } from '../../lib/text/tokenizer.js';
import { buildUnigramVocabulary, END_ID, PAD_ID, UNKNOWN_ID } from '../../lib/text/vocabulary.js';

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
