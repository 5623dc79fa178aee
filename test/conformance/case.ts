/** One golden case: its JSON, its stored tensors, and the comparison of what an implementation computed with them. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { readSafetensors } from '../../lib/io/safetensors.js';
import { type TensorData, toFloat32 } from '../../lib/io/tensor_data.js';
import type { HostTensor } from '../../lib/nn/module.js';
import { fromStored, type HostArray, list, type Numbers, numbers } from './array.js';
import { compareArrays, type Rule, type TensorRule } from './compare.js';
import { expand, globMatches } from './glob.js';
import { ComputedValues, compareJson, type JsonRule } from './json_compare.js';
import type { Report } from './report.js';

/** The fields that every case has; the rest depends on the kind. */
export interface CaseJson {
  readonly kind: string;
  readonly data_file?: string | null;
  readonly weights_file?: string | null;
  readonly weights_case?: string;
  /** Globs of tensors in `weights_file` that belong to something else. */
  readonly weights_ignore?: readonly string[];
  readonly checks?: readonly TensorRule[];
  readonly checks_apply_to?: string;
  readonly json_checks?: readonly JsonRule[];
  /** Recorded random numbers: what they decide -> the tensors that hold them. */
  readonly draws?: Readonly<Record<string, { readonly tensor?: string }>>;
}

export interface RunOptions {
  /** Folder of the photos that some cases name. */
  readonly photos?: string;
}

/** A case that cannot be run as it is written: a file that is absent, a field that makes no sense. */
export class CaseError extends Error {}

export class GoldenCase {
  private readonly compared = new Set<string>();
  private readonly computed = new ComputedValues();
  private readonly rules = new Map<string, TensorRule | undefined>();

  private constructor(
    readonly name: string,
    readonly path: string,
    readonly json: CaseJson,
    private readonly data: ReadonlyMap<string, TensorData>,
    private readonly report: Report,
    readonly options: RunOptions,
  ) {}

  /** @throws CaseError when a file that the case names is not there; InfinityError when it is malformed */
  static async load(
    name: string,
    path: string,
    json: CaseJson,
    report: Report,
    options: RunOptions,
  ): Promise<GoldenCase> {
    const folder = dirname(path);
    const { data_file, weights_file, weights_case } = json;
    for (const file of [data_file, weights_file, weights_case && `${weights_case}.json`])
      if (file && !existsSync(join(folder, file))) throw new CaseError(`the file ${file} is missing`);
    const data = data_file ? await readSafetensors(join(folder, data_file)) : new Map<string, TensorData>();
    return new GoldenCase(name, path, json, data, report, options);
  }

  /** The JSON as the kind understands it. */
  fields<T>(): CaseJson & T {
    return this.json as CaseJson & T;
  }

  /** Path of a file beside the JSON. */
  file(name: string): string {
    const path = join(dirname(this.path), name);
    if (!existsSync(path)) throw new CaseError(`the file ${name} is missing`);
    return path;
  }

  /** The JSON of `weights_case`. */
  async weightsCase<T>(): Promise<T> {
    const { weights_case } = this.json;
    if (!weights_case) throw new CaseError('the case names no weights_case');
    return JSON.parse(await readFile(this.file(`${weights_case}.json`), 'utf8')) as T;
  }

  /** The parameters of `weights_file`, of which those whose name begins with `prefix`, without it. */
  async weights(prefix = '', file = this.json.weights_file): Promise<Map<string, HostTensor>> {
    if (!file) throw new CaseError('the case names no weights_file');
    const { weights_ignore = [] } = this.json;
    const tensors = [...(await readSafetensors(this.file(file)))].filter(
      ([name]) => name.startsWith(prefix) && !weights_ignore.some((glob) => globMatches(glob, name)),
    );
    return new Map(tensors.map(([name, td]) => [name.slice(prefix.length), { shape: td.shape, data: toFloat32(td) }]));
  }

  /** Whether an entry needs what is not at hand; such an output is never compared. */
  private lacks({ optional, needs }: Rule): boolean {
    if (!optional && needs === undefined) return false;
    return !(needs === 'photos_dir' && this.options.photos !== undefined);
  }

  private rule(name: string): TensorRule | undefined {
    if (!this.rules.has(name))
      this.rules.set(
        name,
        this.json.checks?.find(({ match }) => globMatches(match, name)),
      );
    return this.rules.get(name);
  }

  /** Whether the tensor is stored, in whatever role. */
  has(name: string): boolean {
    return this.data.has(name);
  }

  /** Whether a result of this name is asked for. */
  wants(name: string): boolean {
    const rule = this.rule(name);
    return this.data.has(name) && rule?.role === 'out' && !this.lacks(rule);
  }

  /** Names of stored tensors that match a glob. */
  names(glob: string): string[] {
    return [...this.data.keys()].filter((name) => globMatches(glob, name));
  }

  /** The consecutive tensors `pattern` with {k} = 0, 1, 2, ... */
  series(pattern: string): string[] {
    const found: string[] = [];
    for (let name = pattern.replace('{k}', '0'); this.has(name); ) {
      found.push(name);
      name = pattern.replace('{k}', String(found.length));
    }
    return found;
  }

  /** Name of the tensor that holds recorded numbers, by the case's `draws` or the name that it has by default. */
  drawsOf(what: string, byDefault: string, values: Readonly<Record<string, string | number>>): string {
    return expand(this.json.draws?.[what]?.tensor ?? byDefault, values);
  }

  array(name: string): HostArray {
    const td = this.data.get(name);
    if (!td) throw new CaseError(`the tensor ${name} is missing`);
    return fromStored(td);
  }

  numbers(name: string): number[] {
    return numbers(this.array(name));
  }

  /**
   * Compares a result with the stored tensor of that name. Results that the case does not ask for are passed over.
   * @param expected what the case makes of the stored tensor, where it is not compared as it is
   */
  give(name: string, got: HostArray | number | readonly number[], pass = '', expected?: HostArray): void {
    if (!this.wants(name)) return;
    const rule = this.rule(name)!;
    const mask = rule.row_mask === undefined ? undefined : this.array(rule.row_mask);
    const stored = expected ?? this.array(name);
    const mine =
      typeof got === 'number'
        ? { shape: stored.shape, data: Float64Array.of(got) as Numbers }
        : 'shape' in got
          ? got
          : list(got);
    this.compared.add(name);
    this.report.outcome(this.name, pass ? `${name} (${pass})` : name, compareArrays(rule, mine, stored, mask));
  }

  /**
   * Compares a result with a tensor of a file that the kind opened itself, under the rule for `name`.
   * @param label names the comparison in the report
   */
  compareApart(label: string, name: string, got: HostArray | undefined, stored: HostArray): void {
    this.compared.add(label);
    const rule = this.rule(name);
    if (!rule) this.report.fail(this.name, label, 'no entry of checks matches this tensor');
    else if (!got) this.report.fail(this.name, label, 'not computed');
    else this.report.outcome(this.name, label, compareArrays(rule, got, stored));
  }

  /** Reports an outcome that is right or wrong without being a number. */
  verdict(label: string, pass: boolean, note: string): void {
    this.compared.add(label);
    const maxAbs = pass ? 0 : Number.POSITIVE_INFINITY;
    this.report.outcome(this.name, label, { pass, maxAbs, relative: pass ? 0 : null, tolerance: 'exact', note });
  }

  /** Offers the value that belongs at `path` of the JSON. */
  giveJson(path: readonly (string | number)[], value: unknown): void {
    this.computed.set(path, value);
  }

  /** Reports that a stored tensor cannot be compared here, without calling it passed. */
  skip(name: string, reason: string): void {
    if (this.compared.has(name)) return;
    this.compared.add(name);
    this.report.skip(this.name, name, reason);
  }

  /** Everything the case asks for and did not get, and every mistake in the case itself. */
  finish(error?: unknown): void {
    const before = this.report.lines.length;
    const failedBefore = this.report.failures.length;
    const reason =
      error === undefined ? 'not computed' : `not computed: ${error instanceof Error ? error.message : String(error)}`;
    const checks = this.json.checks ?? [];
    for (const name of this.data.keys()) {
      const rule = this.rule(name);
      if (!rule) {
        this.report.fail(this.name, name, 'no entry of checks matches this tensor');
        continue;
      }
      if (rule.role !== 'out' || this.compared.has(name)) continue;
      if (this.lacks(rule)) this.skip(name, `needs ${rule.needs ?? 'a mode that is not at hand'}`);
      else this.report.fail(this.name, name, reason);
    }
    // Some kinds apply their checks to files that they name themselves.
    if (this.json.checks_apply_to === undefined)
      for (const rule of checks)
        if (!this.names(rule.match).length)
          this.report.fail(this.name, rule.match, 'this entry of checks matches no tensor');
    for (const { rule, outcome } of compareJson(this.json.json_checks ?? [], this.json, this.computed)) {
      const label = `json:${rule.path.join('.')}`;
      if (!outcome) this.report.fail(this.name, label, 'this entry of json_checks matches nothing');
      else if (this.lacks(rule))
        this.report.skip(this.name, label, `needs ${rule.needs ?? 'a mode that is not at hand'}`);
      else
        this.report.outcome(
          this.name,
          label,
          error === undefined || outcome.pass ? outcome : { ...outcome, note: reason },
        );
    }
    const silent = this.compared.size === 0 && this.report.lines.length === before;
    if (silent) this.report.fail(this.name, '', error === undefined ? 'the case asks for nothing' : reason);
    else if (error !== undefined && this.report.failures.length === failedBefore)
      this.report.fail(this.name, '', reason);
  }
}
