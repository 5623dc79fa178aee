/** Cases that nobody recorded, made from recorded ones in ways whose outcome is known: other names, places and options. */
import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readSafetensors, writeSafetensors } from '../../lib/io/safetensors.js';
import { type TensorData, toFloat64 } from '../../lib/io/tensor_data.js';
import { compareArrays } from './compare.js';
import { runConformance } from './runner.js';

const FIXTURES = fileURLToPath(new URL('../fixtures/goldens', import.meta.url));

/** The fields of a case that are edited here; each kind has some of them. */
interface Fixture {
  kind: string;
  case: string;
  model: string;
  data_file: string;
  weights_file?: string;
  weights_case?: string;
  rope_reference_schedule_1M?: unknown;
  config: {
    codebook_dim?: number;
    dim?: number;
    overrides?: object;
    quantizer_kwargs?: object;
    bsq_kwargs?: object;
    scale_schedule?: unknown;
    full_args?: { lfq_weight: number; commitment_loss_weight: number; compute_all_commitment: boolean };
  };
  options: object;
  micro_batches: { min_max_lr_wd: number[] }[];
  checks: { match: string; role: string; needs?: string }[];
  json_checks: { path: string[]; role: string; atol?: number; needs?: string }[];
}

const f32 = (shape: readonly number[], values: ArrayLike<number>): TensorData => ({
  dtype: 'F32',
  shape,
  data: new Uint8Array(Float32Array.from(values).buffer),
});

describe('conformance of derived cases', () => {
  let dir: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'derived-'));
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  const read = (name: string): Fixture => JSON.parse(readFileSync(join(FIXTURES, `${name}.json`), 'utf8'));

  /** Writes a fixture's JSON and tensors, edited, into a folder of its own, with its weights in the parent folder. */
  async function derive(
    name: string,
    edit: (json: Fixture, tensors: Map<string, TensorData>) => void,
    keeps = new Set<string>(),
  ): Promise<void> {
    const json = read(name);
    const source = (file: string) => join(FIXTURES, name.split('/')[0]!, file);
    const tensors = new Map(await readSafetensors(source(json.data_file)));
    json.case = 'stranger';
    json.model = 'stranger';
    mkdirSync(join(dir, 'deep'));
    for (const [field, file, place] of [
      ['weights_file', json.weights_file, 'weights.bin'],
      ['weights_case', json.weights_case && `${json.weights_case}.json`, 'weights.json'],
    ] as const) {
      if (!file) continue;
      copyFileSync(source(file), join(dir, place));
      json[field] = field === 'weights_case' ? '../weights' : `../${place}`;
    }
    edit(json, tensors);
    json.data_file = 'numbers.safetensors';
    await writeSafetensors(join(dir, 'deep', json.data_file), tensors);
    const reversed = Object.fromEntries(Object.entries(json).reverse());
    writeFileSync(join(dir, 'deep', 'any name.json'), JSON.stringify(reversed));
    const report = await runConformance({ dir });
    assert.deepEqual(report.failures, []);
    for (const tensor of keeps)
      assert.ok(
        report.lines.some((line) => line.tensor === tensor && line.status === 'pass'),
        `${tensor} was not compared`,
      );
    assert.ok(report.totals().tensors > 0);
  }

  /** Leaves only the entries of `checks` whose pattern is listed; everything else becomes information. */
  const only = (json: Fixture, ...kept: string[]): void => {
    json.checks = [...json.checks.filter(({ match }) => kept.includes(match)), { match: '*', role: 'info' }];
  };

  it('under other names, in other folders, with the fields in another order', async () => {
    await derive('tokenizer/quant_eval_options_d16', () => undefined, new Set(['out.quantized']));
  });

  it('a transformer case finds its network in the parent folder, and the ratio by its template alone', async () => {
    await derive('transformer/d2_infer_greedy_cfg3_logits', (json) => {
      delete json.rope_reference_schedule_1M;
      Object.assign(json.options, { cfg_insertion_layer: 0 });
    });
  }).timeout(30_000);

  it('options of the quantiser that have no effect are accepted', async () => {
    await derive('tokenizer/bsq_train_d16', (json) => {
      Object.assign(json.config.bsq_kwargs!, { codebook_scale: 0.5, frac_per_sample_entropy: 0.3, diversity_gamma: 7 });
    });
  });

  it('codes flip in evaluation as they do in training', async () => {
    const edit = (json: Fixture): void => {
      json.kind = 'msbsq_eval';
      const { dim, quantizer_kwargs, scale_schedule } = json.config;
      json.config = { codebook_dim: dim, overrides: quantizer_kwargs, scale_schedule };
      const kept = json.checks.filter(({ match }) => /^out\.(quantized|bits|lfq_in)/.test(match));
      only(json, ...kept.map(({ match }) => match));
    };
    await derive(
      'tokenizer/quant_train_d16_flip_decay',
      edit,
      new Set(['out.quantized', 'out.bits.9', 'out.lfq_in.9']),
    );
  });

  it('the commitment over all scales pulls the features alone', async () => {
    await derive(
      'tokenizer/bitvae_step_d16',
      (json, tensors) => {
        const args = json.config.full_args!;
        args.compute_all_commitment = true;
        only(json, 'out.grad_features', 'out.loss.total');
        const [gradient, features, quantized] = ['grad_features', 'features', 'quantized'].map((n) =>
          toFloat64(tensors.get(`out.${n}`)!),
        ) as [Float64Array, Float64Array, Float64Array];
        const weight = (2 * args.lfq_weight * args.commitment_loss_weight) / features.length;
        const expected = gradient.map((g, i) => g + weight * (features[i]! - quantized[i]!));
        tensors.set('out.grad_features', f32(tensors.get('out.grad_features')!.shape, expected));
      },
      new Set(['out.grad_features', 'out.loss.total']),
    );
  }).timeout(30_000);

  it('a training step reports mean losses of bits whatever it trains, and no decay as the official schedule does', async () => {
    await derive('transformer/c1_train_step_square', (json) => {
      only(json);
      json.micro_batches = json.micro_batches.slice(0, 1);
      const batch = json.micro_batches[0]!;
      Object.assign(json.options, { bitloss: 'sum', twd: 0, twde: 0 });
      batch.min_max_lr_wd = [...batch.min_max_lr_wd.slice(0, 2), -1, 0];
      json.json_checks = [
        { path: ['micro_batches', '0', 'metrics', 'Overall/L_mean'], role: 'out', atol: 2e-5 },
        { path: ['micro_batches', '0', 'metrics', 'Detail/L_s*'], role: 'out', atol: 2e-5 },
        { path: ['micro_batches', '0', 'min_max_lr_wd'], role: 'out', atol: 1e-12 },
      ];
    });
  }).timeout(60_000);

  it('skips what needs something that is not at hand, in checks and in json_checks', async () => {
    const json = read('transformer/a0_schedules');
    json.json_checks[0]!.needs = 'a_mode';
    writeFileSync(join(dir, 'tables.json'), JSON.stringify(json));
    const edge = read('tokenizer/bsq_edge_d16');
    edge.checks.find(({ match }) => match === 'out.bits')!.needs = 'a_mode';
    writeFileSync(join(dir, 'edge.json'), JSON.stringify(edge));
    copyFileSync(join(FIXTURES, 'tokenizer', edge.data_file), join(dir, edge.data_file));
    const report = await runConformance({ dir });
    assert.deepEqual(report.failures, []);
    assert.deepEqual(
      report.lines.filter(({ status }) => status === 'skip').map(({ tensor }) => tensor),
      ['out.bits', 'json:template_order'],
    );
  });

  it('takes the largest value of a tensor from all of it, padding included', () => {
    const rule = { match: '*', role: 'out', atol: 0, rel_to_max: 0.1, rows: { axis: 0, count: 1 } } as const;
    const compare = (got: number) =>
      compareArrays(rule, { shape: [1], data: Float64Array.of(got) }, { shape: [2], data: Float64Array.of(1, 100) })
        .pass;
    assert.ok(compare(10.9));
    assert.ok(!compare(11.1));
  });
});
