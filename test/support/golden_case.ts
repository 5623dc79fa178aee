/** A golden case: its JSON, its tensors, and the comparison rules of its `checks`. Layouts are turned to channels last. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { parseSafetensors } from '../../lib/io/safetensors.js';
import { type TensorData, toFloat64 } from '../../lib/io/tensor_data.js';
import { readGoldenJson, requireGolden } from './goldens.js';

interface Check {
  readonly match: string;
  readonly role: 'in' | 'out' | 'info';
  readonly exact?: true;
  readonly atol?: number;
  readonly rel_to_max?: number;
}

export interface HostArray {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

const globToRegExp = (glob: string): RegExp =>
  new RegExp(
    `^${glob
      .replace(/[.+^${}()|[\]\\]/g, '\\$&')
      .replace(/\*/g, '.*')
      .replace(/\?/g, '.')}$`,
  );

/** [B, d, h, w] or [B, d, 1, h, w] to [B, h, w, d]. */
export function channelsLast({ shape, data }: HostArray): HostArray {
  const [b, d, h, w] = [shape[0]!, shape[1]!, shape.at(-2)!, shape.at(-1)!];
  const out = new Float64Array(data.length);
  const plane = h * w;
  for (let i = 0; i < b; i++)
    for (let c = 0; c < d; c++)
      for (let p = 0; p < plane; p++) out[(i * plane + p) * d + c] = data[(i * d + c) * plane + p]!;
  return { shape: [b, h, w, d], data: out };
}

/** [B, h, w, d] to [B, d, h, w], the order of the stored maps. */
export function channelsFirst(data: ArrayLike<number>, [b, h, w, d]: readonly number[]): Float64Array {
  const out = new Float64Array(data.length);
  const plane = h! * w!;
  for (let i = 0; i < b!; i++)
    for (let c = 0; c < d!; c++)
      for (let p = 0; p < plane; p++) out[(i * d! + c) * plane + p] = data[(i * plane + p) * d! + c]!;
  return out;
}

export class GoldenCase<Config> {
  private constructor(
    readonly name: string,
    readonly config: Config,
    /** Of a sampling case. */
    readonly options: unknown,
    private readonly checks: readonly Check[],
    private readonly tensors: ReadonlyMap<string, TensorData>,
  ) {}

  /** Reads `<name>.json` and `<name>.safetensors`; skips the test, loudly, when they are not at hand. */
  static read<Config>(context: Mocha.Context, name: string): GoldenCase<Config> {
    const { config, options, checks } = readGoldenJson<{ config: Config; options?: unknown; checks: Check[] }>(
      context,
      `${name}.json`,
    );
    const bytes = readFileSync(requireGolden(context, `${name}.safetensors`));
    return new GoldenCase(name, config, options, checks, parseSafetensors(bytes));
  }

  has(tensor: string): boolean {
    return this.tensors.has(tensor);
  }

  array(tensor: string): HostArray {
    const stored = this.tensors.get(tensor) ?? assert.fail(`${this.name} has no tensor ${tensor}`);
    return { shape: stored.shape, data: toFloat64(stored) };
  }

  /** Compares numbers in the stored order with the stored ones, by the first rule that matches. */
  check(tensor: string, got: ArrayLike<number>): void {
    const rule = this.checks.find((c) => globToRegExp(c.match).test(tensor)) ?? assert.fail(`no rule for ${tensor}`);
    assert.equal(rule.role, 'out', `${tensor} is not an output`);
    const want = this.array(tensor).data;
    assert.equal(got.length, want.length, `${this.name} ${tensor}: number of elements`);
    let largest = 0;
    for (const v of want) largest = Math.max(largest, Math.abs(v));
    const limit = rule.exact
      ? 0
      : (rule.atol ?? assert.fail(`no limit for ${tensor}`)) + (rule.rel_to_max ?? 0) * largest;
    let worst = 0;
    for (let i = 0; i < want.length; i++) {
      const error = Math.abs(got[i]! - want[i]!);
      if (!(error <= worst)) worst = error;
    }
    assert.ok(worst <= limit, `${this.name} ${tensor}: largest error ${worst} above ${limit}`);
  }

  /** The same for an activation [B, h, w, d] whose stored order is [B, d, (1,) h, w]. */
  checkMap(tensor: string, got: ArrayLike<number>, shape: readonly number[]): void {
    this.check(tensor, channelsFirst(got, shape));
  }
}
