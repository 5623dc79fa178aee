import assert from 'node:assert/strict';
import { SHAPES } from '../../lib/data/shapes/distance.js';
import {
  describeScene,
  grammarVocabulary,
  isHeldOutConjunction,
  isHeldOutCount,
  isHeldOutPair,
  isHeldOutRelation,
  KINDS,
} from '../../lib/data/shapes/grammar.js';
import { shapesSample } from '../../lib/data/shapes/index.js';
import { samplePlan } from '../../lib/data/shapes/plan.js';
import { CounterRandom } from '../../lib/data/shapes/random.js';
import { offsetAlong, RELATIONS, type ScenePlan } from '../../lib/data/shapes/scene.js';
import { shapesPrompts } from '../../lib/eval/shapes/index.js';

const DRAWS = 40000;

function draw(split: 'train' | 'all'): { plan: ScenePlan; caption: string }[] {
  return Array.from({ length: DRAWS }, (_, index) => {
    const random = new CounterRandom(11, index);
    const plan = samplePlan(random, split);
    return { plan, caption: describeScene(plan, random) };
  });
}

describe('shapes set: captions and the split', () => {
  const train = draw('train');
  const all = draw('all');

  it('keeps the training mix of 30, 25, 20, 15 and 10 percent', () => {
    const share = (kind: string) => train.filter(({ plan }) => plan.kind === kind).length / DRAWS;
    const expected = { one: 0.3, two: 0.25, relation: 0.2, counted: 0.15, many: 0.1 };
    for (const [kind, wanted] of Object.entries(expected))
      assert.ok(Math.abs(share(kind) - wanted) < 0.01, `${kind}: ${share(kind)}`);
  });

  it('lists exactly the words that captions use, and captions stay short', () => {
    const used = new Set<string>();
    for (const { caption } of [...train, ...all]) {
      assert.match(caption, /^[a-z]+(,? [a-z]+)*$/);
      const words = caption.replaceAll(',', ' ,').split(' ');
      assert.ok(words.length <= 24, caption);
      for (const word of words) used.add(word);
    }
    assert.deepEqual([...used].sort(), grammarVocabulary());
  });

  it('agrees with English on articles and numbers', () => {
    for (const { caption } of train) {
      assert.doesNotMatch(caption, /\ba [aeiou]|\ban [^aeiou]/);
      assert.doesNotMatch(caption, /\b(two|three|four) (of the )?(\w+ )?\w*[^s]$/);
    }
  });

  it('holds out one combination in ten of each category that has combinations', () => {
    const share = (flags: readonly boolean[]) => flags.filter(Boolean).length / flags.length;
    const pairs = KINDS.flatMap((a, i) => KINDS.slice(i + 1).map((b) => isHeldOutPair(a, b)));
    const counts = [2, 3, 4].flatMap((count) => KINDS.map((kind) => isHeldOutCount(count, kind)));
    const apart = SHAPES.flatMap((a) => SHAPES.filter((b) => b !== a).map((b) => [a, b] as const));
    const relations = RELATIONS.flatMap((relation) => apart.map(([a, b]) => isHeldOutRelation(a, relation, b)));
    for (const flags of [pairs, counts, relations]) assert.ok(Math.abs(share(flags) - 0.1) < 0.005, `${share(flags)}`);
    assert.equal(share(apart.map(([a, b]) => isHeldOutConjunction(a, b))), 2 / 15);
    for (const [a, b] of apart) assert.equal(isHeldOutRelation(a, 'left', b), isHeldOutRelation(b, 'right', a));
    for (const a of KINDS) for (const b of KINDS) assert.equal(isHeldOutPair(a, b), isHeldOutPair(b, a));
  });

  it('never shows a held-out combination in training, and shows them all in the whole set', () => {
    const leaks = (draws: readonly { plan: ScenePlan }[]) => {
      const found = { pair: 0, count: 0, relation: 0, conjunction: 0 };
      for (const { plan } of draws) {
        const [a, b] = plan.things;
        if (plan.kind === 'counted' && isHeldOutCount(plan.things.length, a)) found.count++;
        if (plan.kind === 'two' && isHeldOutConjunction(a.shape, b.shape)) found.conjunction++;
        if (plan.relation && isHeldOutRelation(a.shape, plan.relation, b.shape)) found.relation++;
        if (
          plan.kind !== 'counted' &&
          plan.things.some((x, i) => plan.things.slice(i + 1).some((y) => isHeldOutPair(x, y)))
        )
          found.pair++;
      }
      return found;
    };
    assert.deepEqual(leaks(train), { pair: 0, count: 0, relation: 0, conjunction: 0 });
    for (const [what, times] of Object.entries(leaks(all))) assert.ok(times > 300, `${what}: ${times}`);
  });

  it('puts every seen prompt into training captions word for word, and no unseen one', () => {
    const captions = new Set(train.map(({ caption }) => caption));
    const prompts = shapesPrompts({ seed: 3, perCategory: 200 });
    // 1,440 coloured pairs are too many to expect each within these draws; some must occur.
    const missing = prompts.filter((p) => p.seen && p.category !== 'color_attr' && !captions.has(p.prompt));
    assert.deepEqual(missing, []);
    assert.ok(prompts.filter((p) => p.seen && p.category === 'color_attr' && captions.has(p.prompt)).length > 50);
    assert.deepEqual(
      prompts.filter((p) => !p.seen && captions.has(p.prompt)),
      [],
    );
  });

  it('tells what the scene shows', () => {
    const words: Record<string, string> = {
      disc: 'circle',
      box: 'square',
      hoop: 'ring',
      violet: 'purple',
      turquoise: 'cyan',
    };
    let relations = 0;
    for (let index = 0; index < 2000; index++) {
      const { caption, scene } = shapesSample({ seed: 4, index, size: 16 });
      const plain = caption.replaceAll(/disc|box|hoop|violet|turquoise/g, (word) => words[word]).replace('to the ', '');
      for (const { shape } of scene.objects) assert.ok(plain.includes(shape), `${caption} / ${shape}`);
      // "a circle left of a ring": the first object named lies on the stated side of the second.
      const told = /^an? (?:\w+ )*?(\w+) (left|right|above|below)(?: of)? an? (?:\w+ )*?(\w+)$/.exec(plain);
      if (!told || told[1] === told[3]) continue;
      const [a, b] = [told[1], told[3]].map((shape) => scene.objects.find((object) => object.shape === shape));
      assert.ok(a && b, caption);
      assert.ok(offsetAlong(told[2] as (typeof RELATIONS)[number], a, b) > 0.1, caption);
      relations++;
    }
    assert.ok(relations > 100, `${relations} relations read`);
  });
});
