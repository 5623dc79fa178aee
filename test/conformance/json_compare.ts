/** Comparison of values inside a case's JSON, by the entries of `json_checks`. */
import { compareNumbers, type Outcome, type Rule } from './compare.js';
import { globMatches } from './glob.js';

export interface JsonRule extends Rule {
  readonly path: readonly string[];
  readonly unordered?: boolean;
}

export type Path = readonly string[];

export const NOT_COMPUTED = Symbol('not computed');

const isBranch = (value: unknown): value is object => typeof value === 'object' && value !== null;

function matches(rule: JsonRule, path: Path): boolean {
  return rule.path.length <= path.length && rule.path.every((glob, i) => globMatches(glob, path[i]!));
}

function* leaves(value: unknown, path: Path = []): Generator<[Path, unknown]> {
  const entries = isBranch(value) ? Object.entries(value) : [];
  if (entries.length === 0) yield [path, value];
  for (const [key, child] of entries) yield* leaves(child, [...path, key]);
}

/** What a case computed, addressed by the place where the expected value stands. */
export class ComputedValues {
  private readonly values = new Map<string, unknown>();

  set(path: readonly (string | number)[], value: unknown): void {
    this.values.set(path.join('\0'), value);
  }

  get(path: Path): unknown {
    for (let n = path.length; n > 0; n--) {
      const key = path.slice(0, n).join('\0');
      if (!this.values.has(key)) continue;
      let value = this.values.get(key);
      for (const step of path.slice(n)) {
        if (!isBranch(value) || !Object.hasOwn(value, step)) return NOT_COMPUTED;
        value = (value as Record<string, unknown>)[step];
      }
      return value;
    }
    return NOT_COMPUTED;
  }
}

export interface JsonOutcome {
  readonly rule: JsonRule;
  /** Undefined when the rule matched nothing at all. */
  readonly outcome: Outcome | undefined;
}

/** One outcome an entry of `json_checks` with role "out", over all values it covers. */
export function compareJson(rules: readonly JsonRule[], json: unknown, computed: ComputedValues): JsonOutcome[] {
  const covered = new Map<JsonRule, [Path, unknown][]>(rules.map((rule) => [rule, []]));
  const matching = new Set<JsonRule>();
  for (const [path, value] of leaves(json)) {
    const claims = rules.filter((rule) => matches(rule, path));
    for (const rule of claims) matching.add(rule);
    if (claims[0]) covered.get(claims[0])!.push([path, value]);
  }
  return rules
    .filter((rule) => (rule.role === 'out' && covered.get(rule)!.length > 0) || !matching.has(rule))
    .map((rule) => ({
      rule,
      outcome: matching.has(rule) ? judgeRule(rule, covered.get(rule)!, json, computed) : undefined,
    }));
}

function judgeRule(
  rule: JsonRule,
  found: readonly [Path, unknown][],
  json: unknown,
  computed: ComputedValues,
): Outcome {
  const failed = (note: string): Outcome => ({
    pass: false,
    maxAbs: Number.POSITIVE_INFINITY,
    relative: null,
    tolerance: '-',
    note,
  });
  const nodes = new Map(
    found.map(([path]) => [path.slice(0, rule.path.length).join('\0'), path.slice(0, rule.path.length)]),
  );
  for (const node of nodes.values()) {
    const problem = sameExtent(rule, at(json, node), computed.get(node));
    if (problem) return failed(`${node.join('.')}: ${problem}`);
  }
  if (rule.unordered) return { pass: true, maxAbs: 0, relative: 0, tolerance: 'exact' };
  const got: number[] = [];
  const stored: number[] = [];
  for (const [path, value] of found) {
    if (value === null || isBranch(value)) continue;
    const mine = computed.get(path);
    if (typeof value === 'number' && typeof mine === 'number') {
      got.push(mine);
      stored.push(value);
      // rel_to_max refers to the number itself, so numbers of different size are judged one by one.
      if (!compareNumbers(rule, [mine], [value]).pass)
        return { ...compareNumbers(rule, [mine], [value]), note: `${path.join('.')}: ${mine} instead of ${value}` };
    } else if (mine !== value) {
      return failed(
        `${path.join('.')}: ${mine === NOT_COMPUTED ? 'not computed' : JSON.stringify(mine)} instead of ${JSON.stringify(value)}`,
      );
    }
  }
  const overall = compareNumbers(rule, got, stored);
  return { ...overall, pass: true };
}

function at(json: unknown, path: Path): unknown {
  return path.reduce((value: unknown, key) => (value as Record<string, unknown>)[key], json);
}

/** Lists must have the same length and objects the same keys; with `unordered` the same members. */
function sameExtent(rule: JsonRule, stored: unknown, got: unknown): string | undefined {
  if (stored === null) return undefined;
  if (got === NOT_COMPUTED) return 'not computed';
  if (!isBranch(stored)) return undefined;
  if (!isBranch(got) || Array.isArray(got) !== Array.isArray(stored)) return 'of another kind';
  if (rule.unordered) {
    const [a, b] = [stored, got].map((values) =>
      Object.values(values)
        .map((v) => JSON.stringify(v))
        .sort()
        .join(),
    );
    return a === b ? undefined : 'another set';
  }
  const keys = Object.keys(stored);
  if (rule.exact && Object.keys(got).length !== keys.length)
    return `${Object.keys(got).length} entries instead of ${keys.length}`;
  if (Array.isArray(stored) && stored.length !== Object.keys(got).length) return 'a list of another length';
  for (const key of keys) {
    const child = (stored as Record<string, unknown>)[key];
    const mine = Object.hasOwn(got, key) ? (got as Record<string, unknown>)[key] : NOT_COMPUTED;
    const problem = sameExtent(rule, child, mine);
    if (problem) return `${key}: ${problem}`;
  }
  return undefined;
}
