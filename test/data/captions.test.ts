import assert from 'node:assert/strict';
import { type CaptionChoice, chooseCaption } from '../../lib/data/captions.js';
import type { Captions } from '../../lib/data/rows.js';
import { CounterRandom } from '../../lib/data/shapes/random.js';

const DRAWS = 4000;

/** Share of each caption among many draws. */
function shares(captions: Captions, choice: CaptionChoice): Map<string, number> {
  const found = new Map<string, number>();
  for (let i = 0; i < DRAWS; i++) {
    const caption = chooseCaption(captions, choice, new CounterRandom(i));
    found.set(caption, (found.get(caption) ?? 0) + 1 / DRAWS);
  }
  return found;
}

function assertShares(found: ReadonlyMap<string, number>, expected: Readonly<Record<string, number>>): void {
  assert.deepEqual([...found.keys()].sort(), Object.keys(expected).sort());
  // Five standard deviations of a share near a half.
  for (const [caption, share] of Object.entries(expected))
    assert.ok(Math.abs(found.get(caption)! - share) < 0.04, `${caption}: ${found.get(caption)}`);
}

describe('choice of captions', () => {
  const short = 'A dog.';
  const long = 'A dog runs. It is brown. The sky is blue... It is noon.';

  it('gives the short caption with its probability, else more than two sentences of the long one, uniformly', () => {
    assertShares(shares({ long, short, whole: false }, { shortProbability: 0.5, dynamicLength: true }), {
      'A dog.': 0.5,
      'A dog runs. It is brown. The sky is blue...': 0.25,
      [long]: 0.25,
    });
  });

  it('takes the first sentences where there is no short caption: one of fifteen words says enough', () => {
    assertShares(shares({ long, short: '', whole: false }, { shortProbability: 0.5, dynamicLength: true }), {
      'A dog runs. It is brown.': 0.5,
      'A dog runs. It is brown. The sky is blue...': 0.25,
      [long]: 0.25,
    });
    const first = 'a b c d e f g h i j k l m n o.';
    const more = `${first} Two. Three.`;
    assertShares(shares({ long: more, short: '', whole: false }, { shortProbability: 0.2, dynamicLength: true }), {
      [first]: 0.2,
      [`${first} Two.`]: 0.4,
      [more]: 0.4,
    });
  });

  it('leaves long captions whole where they are prompts of users, are short, or lengths are not drawn', () => {
    assertShares(shares({ long, short, whole: true }, { shortProbability: 0.3, dynamicLength: true }), {
      [short]: 0.3,
      [long]: 0.7,
    });
    assertShares(shares({ long, short: '', whole: false }, { shortProbability: 0.3, dynamicLength: false }), {
      [long]: 1,
    });
    assertShares(shares({ long: 'One. Two', short, whole: false }, { shortProbability: 0, dynamicLength: true }), {
      'One. Two': 1,
    });
  });

  it('cuts settings, and is never empty', () => {
    const choice = { shortProbability: 0.5, dynamicLength: true };
    assertShares(shares({ long: 'A cat --ar 3:2', short: '--v 5', whole: true }, choice), { 'A cat': 1 });
    assertShares(shares({ long: '', short: 'A cat', whole: false }, choice), { 'A cat': 1 });
  });
});
