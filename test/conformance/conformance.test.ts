import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Device } from '../../lib/device.js';
import { readSafetensors, writeSafetensors } from '../../lib/io/safetensors.js';
import { DATA_KINDS, kinds } from './kinds/index.js';
import { Report } from './report.js';
import { findCases, isImplemented, runCase, runConformance } from './runner.js';

const FIXTURES = fileURLToPath(new URL('../fixtures/goldens', import.meta.url));

function describeFolder(title: string, dir: string, photos?: string): void {
  describe(`conformance: ${title}`, () => {
    for (const found of findCases(dir)) {
      it(found.name, async function () {
        this.timeout(300_000);
        if (found.json && !isImplemented(found.json.kind)) {
          if (this.test) this.test.title += ` (no implementation of kind ${found.json.kind})`;
          this.skip();
        }
        const before = Device.default().stats().liveTensors;
        const report = new Report();
        await runCase(found, report, { photos });
        assert.deepEqual(report.failures, []);
        const { tensors, skipped } = report.totals();
        assert.ok(tensors > 0 || skipped > 0, 'nothing was compared');
        assert.equal(Device.default().stats().liveTensors, before, 'tensors were leaked');
      });
    }
  });
}

describeFolder('the committed cases', FIXTURES);
if (process.env.NODE_INFINITY_GOLDENS)
  describeFolder('NODE_INFINITY_GOLDENS', process.env.NODE_INFINITY_GOLDENS, process.env.NODE_INFINITY_PHOTOS);

describe('the conformance runner', () => {
  let dir: string;
  const json = (name: string): Record<string, unknown> => JSON.parse(readFileSync(join(dir, `${name}.json`), 'utf8'));
  const store = (name: string, value: unknown) => writeFileSync(join(dir, `${name}.json`), JSON.stringify(value));
  const failures = async () => (await runConformance({ dir })).failures;
  const only = async (note: RegExp, tensor?: string) => {
    const lines = await failures();
    assert.equal(lines.length, 1, JSON.stringify(lines));
    assert.match(lines[0]!.note ?? '', note);
    if (tensor !== undefined) assert.equal(lines[0]!.tensor, tensor);
  };

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'conformance-'));
    cpSync(join(FIXTURES, 'tokenizer/bsq_edge_d16.json'), join(dir, 'edge.json'));
    cpSync(join(FIXTURES, 'tokenizer/bsq_edge_d16.safetensors'), join(dir, 'bsq_edge_d16.safetensors'));
    cpSync(join(FIXTURES, 'transformer/a0_schedules.json'), join(dir, 'tables.json'));
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  /** Rewrites the data file of the copied case. */
  async function editTensors(edit: (tensors: Awaited<ReturnType<typeof readSafetensors>>) => void): Promise<void> {
    const path = join(dir, 'bsq_edge_d16.safetensors');
    const tensors = await readSafetensors(path);
    edit(tensors);
    await writeSafetensors(path, tensors);
  }

  it('passes a folder it has never seen, whatever its cases are called', async () => {
    const totals = (await runConformance({ dir })).totals();
    assert.deepEqual({ ...totals, worst: null }, { cases: 2, tensors: 7, failed: 0, skipped: 0, worst: null });
    assert.ok(totals.worst !== null && totals.worst < 1e-6);
  });

  for (const [title, tensor, index, by] of [
    ['a value beyond the tolerance', 'out.quantized', 5, 1e-6],
    ['a NaN', 'out.quantized', 5, Number.NaN],
  ] as const) {
    it(`fails when one stored number is ${title}`, async () => {
      await editTensors((tensors) => {
        const { dtype, shape, data } = tensors.get(tensor)!;
        const values = new Float32Array(new Uint8Array(data).buffer);
        values[index]! += by;
        tensors.set(tensor, { dtype, shape, data: new Uint8Array(values.buffer) });
      });
      const lines = await failures();
      assert.deepEqual(
        lines.map((line) => line.tensor),
        [tensor],
      );
    });
  }

  it('fails when one bit is flipped', async () => {
    await editTensors((tensors) => {
      const stored = tensors.get('out.bits')!;
      const data = Uint8Array.from(stored.data);
      data[3]! ^= 1;
      tensors.set('out.bits', { ...stored, data });
    });
    assert.deepEqual(
      (await failures()).map((line) => line.tensor),
      ['out.bits'],
    );
  });

  it('fails when one number of a JSON table is off', async () => {
    const tables = json('tables') as { schedules: { tokens: number }[] };
    tables.schedules[7]!.tokens++;
    store('tables', tables);
    await only(/schedules\.7\.tokens/, 'json:schedules.*.tokens');
  });

  it('fails on a kind it does not know', async () => {
    store('stranger', { kind: 'quantum_foam', data_file: null, checks: [], json_checks: [] });
    await only(/no implementation of kind quantum_foam/);
  });

  it('fails on a kind that is the name of a property of every object', async () => {
    store('stranger', { kind: 'constructor' });
    await only(/no implementation of kind constructor/);
  });

  it('takes JSON without a kind for data', async () => {
    store('vocabulary', { model: {} });
    store('list', [1, 2, 3]);
    store('network', { kind: DATA_KINDS[0] });
    assert.deepEqual(await failures(), []);
  });

  it('fails on a file that is not JSON', async () => {
    writeFileSync(join(dir, 'broken.json'), '{"kind":');
    await only(/not JSON/);
  });

  it('fails when a data file is missing', async () => {
    unlinkSync(join(dir, 'bsq_edge_d16.safetensors'));
    await only(/bsq_edge_d16\.safetensors is missing/);
  });

  it('fails when a weights file or the description of the weights is missing', async () => {
    store('edge', { ...json('edge'), weights_file: 'nowhere.safetensors' });
    await only(/nowhere\.safetensors is missing/);
    store('edge', { ...json('edge'), weights_file: null, weights_case: 'nothing' });
    await only(/nothing\.json is missing/);
  });

  it('fails on a truncated data file', async () => {
    const path = join(dir, 'bsq_edge_d16.safetensors');
    writeFileSync(path, readFileSync(path).subarray(0, -8));
    assert.equal((await failures()).length, 1);
  });

  it('fails on a tensor that no entry of checks matches', async () => {
    const edge = json('edge') as { checks: { match: string }[] };
    store('edge', { ...edge, checks: edge.checks.filter(({ match }) => match !== 'out.bits') });
    await only(/no entry of checks matches/, 'out.bits');
  });

  it('fails on an entry of checks or json_checks that matches nothing', async () => {
    const edge = json('edge') as { checks: object[]; json_checks: object[] };
    store('edge', { ...edge, checks: [...edge.checks, { match: 'out.ghost', role: 'out', atol: 1 }] });
    await only(/matches no tensor/, 'out.ghost');
    store('edge', { ...edge, json_checks: [{ path: ['ghost', '*'], role: 'in' }] });
    await only(/matches nothing/, 'json:ghost.*');
  });

  it('fails on an output that nothing computes', async () => {
    await editTensors((tensors) => tensors.set('out.extra', tensors.get('out.bits')!));
    const edge = json('edge') as { checks: object[] };
    store('edge', { ...edge, checks: [...edge.checks, { match: 'out.extra', role: 'out', exact: true }] });
    await only(/not computed/, 'out.extra');
  });

  it('reports an optional output as skipped, never as passed', async () => {
    const edge = json('edge') as { checks: Record<string, unknown>[] };
    const checks = edge.checks.map((c) => (c.match === 'out.bits' ? { ...c, optional: true, needs: 'a_mode' } : c));
    store('edge', { ...edge, checks });
    const report = await runConformance({ dir });
    assert.deepEqual(report.failures, []);
    assert.equal(report.totals().skipped, 1);
    assert.ok(!report.lines.some((line) => line.tensor === 'out.bits' && line.status === 'pass'));
  });

  it('fails on a case that asks for nothing', async () => {
    store('empty', { kind: 'ffn_hidden', data_file: null, rows: [], checks: [], json_checks: [] });
    await only(/asks for nothing/);
  });

  it('speaks to machines: totals as the last line, 0 for a pass, 1 for a failure, 2 for a wrong command', () => {
    const program = fileURLToPath(new URL('run.ts', import.meta.url));
    const run = (...args: string[]) =>
      spawnSync(process.execPath, ['--import', 'tsx', program, ...args], { encoding: 'utf8' });
    const last = (stdout: string) => JSON.parse(stdout.trimEnd().split('\n').at(-1)!);
    const good = run('--dir', dir, '--json');
    assert.equal(good.status, 0, good.stderr);
    assert.deepEqual(Object.keys(last(good.stdout)), ['cases', 'tensors', 'failed', 'skipped', 'worst']);
    store('stranger', { kind: 'quantum_foam' });
    const bad = run('--dir', dir, '--json');
    assert.equal(bad.status, 1);
    assert.equal(last(bad.stdout).failed, 1);
    assert.equal(run('--dir', join(dir, 'nowhere')).status, 2);
  }).timeout(60_000);

  it('has a committed case of every kind it implements', () => {
    const committed = new Set([...findCases(FIXTURES)].map(({ json: found }) => found?.kind));
    const missing = Object.keys(kinds).filter((kind) => !committed.has(kind) && !UNCOMMITTED.has(kind));
    assert.deepEqual(missing, []);
    assert.equal(dirname(FIXTURES).endsWith('fixtures'), true);
  });
});

/** Kinds whose cases hold photos, or take minutes. */
const UNCOMMITTED = new Set(['preprocess', 'vae_full_eval', 'vae_full_grad']);
