import assert from 'node:assert/strict';
import { InfinityError } from '../../lib/errors.js';
import {
  SHAPES_CATEGORIES,
  type ShapesPrompt,
  sceneForPrompt,
  scoreShapes,
  shapesPrompts,
  shapesSummary,
  wilson,
} from '../../lib/eval/shapes/index.js';
import { satisfies } from '../../lib/eval/shapes/judge.js';

describe('shapes prompts', () => {
  const prompts = shapesPrompts({ seed: 0, perCategory: 100 });

  it('lists every category in order, half of it unseen where it has held-out combinations', () => {
    assert.equal(prompts.length, 600);
    for (const [i, category] of SHAPES_CATEGORIES.entries()) {
      const own = prompts.slice(100 * i, 100 * (i + 1));
      assert.ok(own.every((prompt) => prompt.category === category));
      const unseen = own.filter((prompt) => !prompt.seen).length;
      assert.equal(unseen, category === 'single_object' || category === 'colors' ? 0 : 50);
    }
  });

  it('is a pure function of its seed', () => {
    assert.deepEqual(shapesPrompts({ seed: 0, perCategory: 100 }), prompts);
    assert.notDeepEqual(shapesPrompts({ seed: 1, perCategory: 100 }), prompts);
  });

  it('says what its targets say', () => {
    for (const { prompt, targets, count, relation } of prompts) {
      const names = targets.map(({ shape, color }) => (color ? `${color} ${shape}` : shape));
      const [a, b] = names.map((name) => `${name.startsWith('orange') ? 'an' : 'a'} ${name}`);
      const number = { 2: 'two', 3: 'three', 4: 'four' }[count ?? 0];
      const side = relation && (relation === 'left' || relation === 'right' ? `${relation} of` : relation);
      const plural = names[0].endsWith('cross') ? `${names[0]}es` : `${names[0]}s`;
      assert.equal(prompt, number ? `${number} ${plural}` : side ? `${a} ${side} ${b}` : b ? `${a} and ${b}` : a);
    }
  });

  it('repeats no prompt before its category is used up', () => {
    const own = prompts.filter((prompt) => prompt.category === 'color_attr' || prompt.category === 'counting');
    const seen = own.filter((prompt) => prompt.seen).map((prompt) => prompt.prompt);
    assert.equal(new Set(seen).size, seen.length);
  });

  it('is satisfied by the scenes drawn for it', () => {
    for (const [i, prompt] of prompts.entries()) assert.ok(satisfies(prompt, sceneForPrompt(prompt, i).objects));
  });

  it('refuses a bad count or seed', () => {
    for (const bad of [
      { seed: 0, perCategory: 0 },
      { seed: -1, perCategory: 1 },
    ])
      assert.throws(() => shapesPrompts(bad), InfinityError);
  });
});

describe('shapes categories', () => {
  const at = (shape: 'circle' | 'star' | null, color: 'red' | 'blue' | null, cx = 0.5, cy = 0.5) => ({
    shape,
    color,
    cx,
    cy,
  });
  const ask = (rest: Partial<ShapesPrompt>): ShapesPrompt => ({
    category: 'single_object',
    prompt: '',
    seen: true,
    targets: [{ shape: 'circle' }, { shape: 'star' }],
    ...rest,
  });

  it('asks for every target, in its own colour where one is named', () => {
    assert.ok(satisfies(ask({}), [at('star', 'red'), at('circle', 'red')]));
    assert.ok(!satisfies(ask({}), [at('circle', 'red'), at('circle', 'blue')]));
    const bound = ask({
      targets: [
        { shape: 'circle', color: 'red' },
        { shape: 'star', color: 'blue' },
      ],
    });
    assert.ok(satisfies(bound, [at('star', 'blue'), at('circle', 'red')]));
    assert.ok(!satisfies(bound, [at('star', 'red'), at('circle', 'blue')]), 'swapped colours');
    assert.ok(!satisfies(ask({ targets: [{ shape: 'circle' }] }), [at('circle', null)]), 'an unknown colour');
  });

  it('counts exactly, with nothing else in the picture', () => {
    const two = ask({ targets: [{ shape: 'star', color: 'red' }], count: 2 });
    const star = at('star', 'red');
    assert.ok(satisfies(two, [star, star]));
    for (const others of [[], [star], [at('star', 'blue')], [at(null, 'red')]])
      assert.equal(satisfies(two, [star, ...others]), others.length === 1 && others[0] === star);
    assert.ok(!satisfies(two, [star, star, star]));
    assert.ok(!satisfies(two, [star, star, at(null, null)]));
  });

  it('measures a relation along its own axis, by more than a tenth of the canvas', () => {
    const left = ask({ relation: 'left' });
    assert.ok(satisfies(left, [at('circle', 'red', 0.3), at('star', 'red', 0.41)]));
    assert.ok(!satisfies(left, [at('circle', 'red', 0.3), at('star', 'red', 0.39)]));
    assert.ok(!satisfies(left, [at('star', 'red', 0.3), at('circle', 'red', 0.6)]));
    const above = ask({ relation: 'above' });
    assert.ok(satisfies(above, [at('circle', 'red', 0.5, 0.2), at('star', 'red', 0.5, 0.6)]));
    assert.ok(!satisfies(above, [at('circle', 'red', 0.5, 0.6), at('star', 'red', 0.5, 0.2)]));
    assert.ok(
      satisfies(above, [at('circle', 'red', 0, 0.9), at('circle', 'red', 0, 0.1), at('star', 'red', 0, 0.6)]),
      'some pair',
    );
  });
});

describe('shapes scores', () => {
  it('gives Wilson intervals', () => {
    // Published values: 10 of 20 gives 0.299..0.701, 0 of 10 gives 0..0.278 (Newcombe 1998, method 3).
    const rounded = (correct: number, pictures: number) => {
      const { low, high } = wilson(correct, pictures);
      return [low, high].map((v) => Number(v.toFixed(3)));
    };
    assert.deepEqual(rounded(10, 20), [0.299, 0.701]);
    assert.deepEqual(rounded(0, 10), [0, 0.278]);
    assert.deepEqual(rounded(10, 10), [0.722, 1]);
  });

  it('averages pictures within a category, categories within the whole, and keeps the keys in order', () => {
    const prompts = shapesPrompts({ seed: 0, perCategory: 2 });
    const results = prompts.map((prompt) => ({
      prompt,
      correct: prompt.category === 'counting' ? [true, false, false, prompt.seen] : [true, true, true, true],
    }));
    const report = scoreShapes(results);
    assert.equal(report.categories.counting.all.score, 3 / 8);
    assert.equal(report.categories.counting.seen?.score, 1 / 2);
    assert.equal(report.categories.counting.unseen?.score, 1 / 4);
    assert.equal(report.categories.counting.all.pictures, 8);
    assert.equal(report.categories.colors.unseen, null);
    assert.equal(report.overall, (5 + 3 / 8) / 6);
    assert.equal(
      JSON.stringify(shapesSummary(report)),
      `{"single_object":1,"two_object":1,"counting":0.375,"colors":1,"position":1,"color_attr":1,"overall":${report.overall}}`,
    );
  });
});
