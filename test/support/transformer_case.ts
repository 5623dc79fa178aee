/** Transformer reference cases: their network, their inputs, and what the tests read from their JSON. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { parseSafetensors } from '../../lib/io/safetensors.js';
import { type TensorData, toFloat32, toFloat64 } from '../../lib/io/tensor_data.js';
import type { HostTensor } from '../../lib/nn/module.js';
import { Tensor } from '../../lib/tensor.js';
import type { ScaleSchedule } from '../../lib/tokenizer/schedule.js';
import { finestGrid } from '../../lib/tokenizer/schedule.js';
import { type InfinityConfig, parseInfinityConfig } from '../../lib/transformer/config.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { readGoldenJson, requireGolden } from './goldens.js';

interface Check {
  readonly match: string;
  readonly role: 'in' | 'out' | 'info';
  readonly optional?: boolean;
  readonly exact?: boolean;
  readonly atol?: number;
  readonly rel_to_max?: number;
  readonly rows?: { readonly axis: number; readonly count: number };
  readonly row_mask?: string;
}

export interface CaseJson {
  readonly weights_case: string;
  readonly config_overrides?: Partial<InfinityConfig>;
  readonly scale_schedule: ScaleSchedule;
  readonly rope_reference_schedule_1M: ScaleSchedule;
  readonly checks: readonly Check[];
}

const toPattern = (glob: string): RegExp =>
  new RegExp(
    `^${glob
      .replace(/[.+^${}()|[\]\\]/g, '\\$&')
      .replace(/\*/g, '.*')
      .replace(/\?/g, '.')}$`,
  );

export function readTensors(context: Mocha.Context, name: string): Map<string, TensorData> {
  return parseSafetensors(readFileSync(requireGolden(context, `${name}.safetensors`)));
}

export function toState(tensors: ReadonlyMap<string, TensorData>): Map<string, HostTensor> {
  return new Map([...tensors].map(([name, t]) => [name, { shape: t.shape, data: toFloat32(t) }]));
}

/** One case of transformer/: its JSON, its tensors, and the rules to compare by. */
export class TransformerCase<Json extends { readonly checks: readonly Check[] } = CaseJson> {
  readonly json: Json;
  readonly tensors: ReadonlyMap<string, TensorData>;

  constructor(
    private readonly context: Mocha.Context,
    readonly name: string,
  ) {
    this.json = readGoldenJson<Json>(context, `transformer/${name}.json`);
    this.tensors = readTensors(context, `transformer/${name}`);
  }

  /** Names of stored outputs that the rules want compared. */
  outputs(pattern = '*'): string[] {
    return [...this.tensors.keys()].filter((name) => toPattern(pattern).test(name) && this.rule(name).role === 'out');
  }

  private rule(name: string): Check {
    return this.json.checks.find(({ match }) => toPattern(match).test(name)) ?? assert.fail(`no rule for ${name}`);
  }

  host(name: string): TensorData {
    return this.tensors.get(name) ?? assert.fail(`${this.name} has no tensor ${name}`);
  }

  floats(name: string): Tensor {
    const t = this.host(name);
    return Tensor.from(toFloat32(t), t.shape);
  }

  integers(name: string): number[] {
    return [...toFloat64(this.host(name))];
  }

  /** Compares numbers with the leading ones stored, or with the first `rows.count` positions of axis 1. */
  check(name: string, got: ArrayLike<number>): void {
    const { exact, atol = 0, rel_to_max = 0, rows, row_mask } = this.rule(name);
    const { shape } = this.host(name);
    const want = toFloat64(this.host(name)).subarray(
      0,
      rows && rows.axis === 1 ? shape[0]! * rows.count * shape[2]! : undefined,
    );
    if (rows) assert.equal(shape[0], 1);
    assert.equal(got.length, want.length, `${this.name} ${name}: number of elements`);
    const mask = row_mask ? toFloat64(this.host(row_mask)) : undefined;
    const width = mask ? want.length / mask.length : 1;
    let largest = 0;
    let worst = 0;
    for (let i = 0; i < want.length; i++) {
      largest = Math.max(largest, Math.abs(want[i]!));
      const error = Math.abs(got[i]! - want[i]!);
      if ((!mask || mask[Math.floor(i / width)] === 1) && !(error <= worst)) worst = error;
    }
    const limit = exact ? 0 : atol + rel_to_max * largest;
    assert.ok(worst <= limit, `${this.name} ${name}: largest error ${worst} above ${limit}`);
  }

  /** The network of this case. The caller disposes it. */
  model(this: TransformerCase<CaseJson>): InfinityTransformer {
    const { weights_case, config_overrides } = this.json;
    const { config } = readGoldenJson<{ config: object }>(this.context, `transformer/${weights_case}.json`);
    const model = new InfinityTransformer(parseInfinityConfig({ ...config, ...config_overrides }));
    return model.load(toState(readTensors(this.context, `transformer/${weights_case}`)));
  }

  finest(this: TransformerCase<CaseJson>): readonly [number, number] {
    return finestGrid(this.json.rope_reference_schedule_1M);
  }
}
