/** The harness of `npm run claims` on experiments that cost nothing. */
import assert from 'node:assert/strict';
import { appendFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Cell, Context, Experiment } from '../../benchmarks/claims/experiment.js';
import { expectedSeconds, measure, measuredOf, missing, planned, publish } from '../../benchmarks/claims/runner.js';
import { over } from '../../benchmarks/claims/statistics.js';
import { cellKey, digest, Store } from '../../benchmarks/claims/store.js';

const MACHINE = { machine: 'a machine', revision: 'abc' };

/** Squares of seeds; `ran` counts how often a cell was measured. */
function squares(ran: number[], { name = 'squares', version = 1 } = {}): Experiment {
  return {
    name,
    version,
    title: 'Squares <grow>',
    claim: 'They do.',
    method: 'Multiplication.',
    cells: (short) =>
      (short ? [1] : [1, 2, 3]).map(
        (seed): Cell => ({
          config: { seed },
          seconds: seed,
          round: seed - 1,
          run: async () => {
            ran.push(seed);
            return { square: seed * seed };
          },
        }),
      ),
    read: (results) => {
      const points = results.map(({ config }) => ({ x: Number(config.seed), y: over([results[0]!], 'square')! }));
      return {
        tables: results.length > 0 ? [{ head: ['seeds'], rows: [[String(results.length)]] }] : [],
        plots: [{ name: 'squares', title: 'Squares & more', x: 'seed', y: 'square', series: [{ name: 'a', points }] }],
        findings: results.length > 0 ? [{ verdict: 'holds', text: `${results.length} squares.` }] : [],
      };
    },
  };
}

const context = (signal = new AbortController().signal) => ({ signal }) as Context;

describe('claims', () => {
  let directory: string;
  let records: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'node-infinity-claims-'));
    records = join(directory, 'deep', 'records.jsonl');
  });
  afterEach(() => rm(directory, { recursive: true, force: true }));

  it('name a cell by its experiment, version and configuration, whatever the order of fields', () => {
    assert.equal(digest({ a: 1, b: { c: 2, d: [1, 2] } }), digest({ b: { d: [1, 2], c: 2 }, a: 1 }));
    assert.notEqual(digest({ a: [1, 2] }), digest({ a: [2, 1] }));
    const [cell] = squares([]).cells(false);
    const keys = [squares([]), squares([], { version: 2 }), squares([], { name: 'other' })].map((e) =>
      cellKey(e, cell!),
    );
    assert.equal(new Set(keys).size, 3);
  });

  it('measure every cell once, round by round', async () => {
    const [first, second]: [number[], number[]] = [[], []];
    const experiments = [squares(first), squares(second, { name: 'others' })];
    const plan = planned(experiments, false);
    assert.deepEqual(
      plan.map(({ experiment, cell }) => [experiment.name, cell.round]),
      [0, 1, 2].flatMap((round) => [
        ['squares', round],
        ['others', round],
      ]),
    );
    const store = await Store.open(records);
    assert.equal(expectedSeconds(missing(plan, store)), 12);
    await measure(plan, store, context(), MACHINE);
    await measure(plan, await Store.open(records), context(), MACHINE);
    assert.deepEqual(
      [first, second],
      [
        [1, 2, 3],
        [1, 2, 3],
      ],
    );
  });

  it('go on after an abort and after a line that a kill cut short', async () => {
    const ran: number[] = [];
    const plan = planned([squares(ran)], false);
    const stop = new AbortController();
    const reason = new Error('enough');
    const hooks = { onRecord: () => stop.abort(reason) };
    await assert.rejects(measure(plan, await Store.open(records), context(stop.signal), MACHINE, hooks), reason);
    assert.deepEqual(ran, [1]);
    const whole = await readFile(records, 'utf8');
    await appendFile(records, whole.trimEnd().replace('"seed":1', '"seed":2').slice(0, -20));
    const store = await Store.open(records);
    assert.equal(missing(plan, store).length, 2);
    await measure(plan, store, context(), MACHINE);
    assert.deepEqual(ran, [1, 2, 3]);
    assert.equal(missing(plan, await Store.open(records)).length, 0, 'the torn line does not spoil the one after it');
  });

  it('refuse a cell that measured no number', async () => {
    const broken: Experiment = {
      ...squares([]),
      cells: () => [{ config: { seed: 1 }, seconds: 1, round: 0, run: async () => ({ square: Number.NaN }) }],
    };
    const plan = planned([broken], false);
    const store = await Store.open(records);
    await assert.rejects(measure(plan, store, context(), MACHINE), /square/);
    assert.equal(missing(plan, store).length, 1);
  });

  it('write pages that say what is missing, with plots in them', async () => {
    const experiments = [squares([]), squares([], { name: 'others' })];
    const plan = planned(experiments, false);
    const store = await Store.open(records);
    await measure(
      plan.filter(({ experiment }) => experiment === experiments[0]),
      store,
      context(),
      MACHINE,
    );
    await publish(measuredOf(experiments, plan, store), directory);
    const page = await readFile(join(directory, 'results.md'), 'utf8');
    assert.match(page, /3 of 6 cells were measured\. Missing: others 3 of 3/);
    assert.match(page, /\*\*holds\*\* – 3 squares\./);
    assert.match(page, /!\[Squares & more\]\(results\/squares\.svg\)/);
    const html = await readFile(join(directory, 'results', 'claims.html'), 'utf8');
    assert.match(html, /<svg [^>]*>\s*<title>Squares &amp; more<\/title>/);
    assert.match(html, /Squares &lt;grow&gt;/);
    assert.doesNotMatch(html, /(src|href)=/, 'the page needs no other file');
    const lines = (await readFile(join(directory, 'results', 'records.jsonl'), 'utf8')).trim().split('\n');
    assert.equal(lines.length, 3);
  });

  it('refuse a file that is no list of records by measuring again', async () => {
    await Store.open(records);
    await writeFile(records, 'null\n{"key":1}\n[]\nwords\n');
    assert.equal(missing(planned([squares([])], false), await Store.open(records)).length, 3);
  });
});
