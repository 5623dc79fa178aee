import assert from 'node:assert/strict';
import fc from 'fast-check';
import { CharsMap } from '../../lib/text/charsmap.js';
import type { TokenizerJson } from '../../lib/text/tokenizer_json.js';
import { readGoldenJson } from '../support/goldens.js';

describe('precompiled character map', () => {
  let map: CharsMap;
  let rules: { source: string; target: string }[];
  before(function () {
    const folder = 'transformer/f_tokenizer';
    const { normalizer } = readGoldenJson<TokenizerJson>(this, `${folder}/tokenizer_A.json`);
    assert.ok(normalizer?.type === 'Precompiled');
    map = new CharsMap(Buffer.from(normalizer.precompiled_charsmap, 'base64'));
    rules = readGoldenJson<{ charsmap_rules: typeof rules }>(this, `${folder}/expected.json`).charsmap_rules;
  });

  it('applies every rule it was made from, and nothing else', () => {
    assert.ok(rules.length > 20);
    for (const { source, target } of rules) {
      // A source of several clusters never reaches the map whole.
      const clusters = [...new Intl.Segmenter('en').segment(source)].length;
      if (clusters === 1) assert.equal(map.normalize(source), target, JSON.stringify(source));
    }
    assert.equal(map.normalize('plain text, 猫 and 😀'), 'plain text, 猫 and 😀');
  });

  it('normalises cluster by cluster, plain stretches included', () => {
    const character = fc.oneof(
      fc.constantFrom(...rules.map(({ source }) => source)),
      fc.constantFrom('a', 'e', ' ', '~', '\r', '\n', '\u0301', '\u0600', '\u200d', '😀', '한', 'ᄀ'),
    );
    fc.assert(
      fc.property(fc.array(character, { maxLength: 12 }), (characters) => {
        const text = characters.join('');
        const clusters = [...new Intl.Segmenter('en').segment(text)].map(({ segment }) => map.normalize(segment));
        assert.equal(map.normalize(text), clusters.join(''), JSON.stringify(text));
      }),
    );
  });

  it('a map cut short is refused', () => {
    for (const bytes of [new Uint8Array(0), Uint8Array.of(8, 0, 0, 0, 1), new Uint8Array(8)]) {
      assert.throws(() => new CharsMap(bytes), { code: 'CHECKPOINT_INVALID' });
    }
  });
});
