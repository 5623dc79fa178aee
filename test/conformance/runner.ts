/** Runs every golden case below a folder. What to compute is decided by `kind` and the fields beside it, never by names. */
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { type CaseJson, GoldenCase, type RunOptions } from './case.js';
import { DATA_KINDS, kinds } from './kinds/index.js';
import { Report } from './report.js';

export interface FoundCase {
  /** Path below the folder, without ".json". */
  readonly name: string;
  readonly path: string;
  /** Undefined when the file is not JSON: that is a failure. */
  readonly json: CaseJson | undefined;
}

function parse(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    return undefined;
  }
}

/** The cases below a folder in the order of their names. A JSON file without a `kind` is data of another case. */
export function* findCases(dir: string): Generator<FoundCase> {
  const names = readdirSync(dir, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.json'));
  for (const file of names.sort()) {
    const path = join(dir, file);
    const json = parse(path);
    const name = relative(dir, path).replace(/\.json$/, '');
    if (json === undefined) yield { name, path, json };
    const kind = typeof json === 'object' && json !== null && 'kind' in json ? json.kind : undefined;
    if (typeof kind === 'string' && !DATA_KINDS.includes(kind)) yield { name, path, json: json as CaseJson };
  }
}

export function isImplemented(kind: string): boolean {
  return Object.hasOwn(kinds, kind);
}

/** Runs one case; whatever goes wrong becomes a line of the report. */
export async function runCase(
  { name, path, json }: FoundCase,
  report: Report,
  options: RunOptions = {},
): Promise<void> {
  report.begin();
  if (!json) return report.fail(name, '', 'the file is not JSON');
  const kind = isImplemented(json.kind) ? kinds[json.kind] : undefined;
  if (!kind) return report.fail(name, '', `no implementation of kind ${json.kind}`);
  let golden: GoldenCase;
  try {
    golden = await GoldenCase.load(name, path, json, report, options);
  } catch (error) {
    return report.fail(name, '', (error as Error).message);
  }
  try {
    await kind(golden);
    golden.finish();
  } catch (error) {
    golden.finish(error ?? new Error('failed without a reason'));
  }
}

export interface RunRequest extends RunOptions {
  readonly dir: string;
  /** Only cases whose name contains this. */
  readonly only?: string;
}

/** @throws Error when the folder cannot be read */
export async function runConformance(
  { dir, only = '', ...options }: RunRequest,
  report = new Report(),
): Promise<Report> {
  for (const found of findCases(dir)) if (found.name.includes(only)) await runCase(found, report, options);
  return report;
}
