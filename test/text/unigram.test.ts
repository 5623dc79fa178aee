import assert from 'node:assert/strict';
import fc from 'fast-check';
import { UnigramModel } from '../../lib/text/unigram.js';

type Vocabulary = [string, number][];

function model(vocab: Vocabulary): UnigramModel {
  return new UnigramModel({ type: 'Unigram', unk_id: 0, vocab: [['<unk>', 0], ...vocab] });
}

/** Best score over all splits of a word, by trying them all. */
function bestScore(word: string, vocab: Vocabulary): number {
  const scores = new Map<string, number>(vocab);
  const unknown = Math.min(0, ...scores.values()) - 10;
  const characters = [...word];
  const from = (start: number): number => {
    if (start === characters.length) return 0;
    const singleKnown = scores.has(characters[start]);
    let best = singleKnown ? Number.NEGATIVE_INFINITY : unknown + from(start + 1);
    for (let end = start + 1; end <= characters.length; end++) {
      const score = scores.get(characters.slice(start, end).join(''));
      if (score !== undefined) best = Math.max(best, score + from(end));
    }
    return best;
  };
  return from(0);
}

describe('unigram model', () => {
  const piece = fc.string({ minLength: 1, maxLength: 4, unit: fc.constantFrom('a', 'b', 'c', '😀') });
  const vocabulary = fc.dictionary(piece, fc.integer({ min: -40, max: -1 }), { minKeys: 1, maxKeys: 10 });

  it('finds the most probable split of any word', () => {
    fc.assert(
      fc.property(
        vocabulary,
        fc.string({ maxLength: 7, unit: fc.constantFrom('a', 'b', 'c', 'd', '😀') }),
        (record, word) => {
          const vocab = Object.entries(record);
          const unigram = model(vocab);
          const ids = unigram.encode(word);
          if (ids.includes(0)) return;
          assert.equal(ids.map((id) => unigram.pieceOf(id)).join(''), word);
          const score = ids.reduce((sum, id) => sum + vocab[id - 1][1], 0);
          assert.equal(score, bestScore(word, vocab));
        },
      ),
      { numRuns: 300 },
    );
  });

  it('joins adjacent unknown characters and keeps separate ones apart', () => {
    const unigram = model([['a', -1]]);
    assert.deepEqual(unigram.encode('xya😀'), [0, 1, 0]);
    assert.deepEqual(unigram.encode(''), []);
  });

  it('of equal scores the earlier start wins', () => {
    const unigram = model([
      ['a', -1],
      ['ab', -2],
      ['bc', -2],
      ['c', -1],
      ['b', -9],
    ]);
    assert.deepEqual(unigram.encode('abc'), [1, 3]);
  });
});
