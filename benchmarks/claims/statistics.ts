/** Means over seeds, and how sure a difference is. */
import type { Config, Result, Verdict } from './experiment.js';

/** Two-sided 95 % quantiles of Student's t by degrees of freedom, from 1. */
const T95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];

export interface Summary {
  readonly n: number;
  readonly mean: number;
  readonly low: number;
  readonly high: number;
}

/** Mean with the smallest and the largest value: with three seeds, that is all there is to show. */
export function summarize(values: readonly number[]): Summary {
  const n = values.length;
  return { n, mean: values.reduce((a, v) => a + v, 0) / n, low: Math.min(...values), high: Math.max(...values) };
}

/** Half the width of the 95 % interval of the mean; infinite below two values. */
export function interval95(values: readonly number[]): number {
  const n = values.length;
  if (n < 2) return Number.POSITIVE_INFINITY;
  const { mean } = summarize(values);
  const variance = values.reduce((a, v) => a + (v - mean) ** 2, 0) / (n - 1);
  return (T95[n - 2] ?? 1.96) * Math.sqrt(variance / n);
}

/** Results whose configuration has these values. */
export function where(results: readonly Result[], fields: Config): readonly Result[] {
  return results.filter(({ config }) => Object.entries(fields).every(([name, value]) => config[name] === value));
}

/** The different values of a field, smallest first. */
export function levels(results: readonly Result[], field: string): number[] {
  return [...new Set(results.map(({ config }) => Number(config[field])))].sort((a, b) => a - b);
}

/** A measurement of some results over their seeds; undefined where there is none. */
export function over(results: readonly Result[], value: string): Summary | undefined {
  const values = results.flatMap(({ values }) => values[value] ?? []);
  return values.length > 0 ? summarize(values) : undefined;
}

/** How much larger a measurement is in `a` than in `b`, seed by seed. */
export interface Difference {
  readonly n: number;
  readonly mean: number;
  /** Half the width of the 95 % interval. */
  readonly half: number;
}

/** Pairs the results of two configurations by their seeds; undefined without a pair. */
export function paired(a: readonly Result[], b: readonly Result[], value: string): Difference | undefined {
  const differences = a.flatMap(({ config, values }) => {
    const other = b.find((result) => result.config.seed === config.seed)?.values[value];
    const own = values[value];
    return own === undefined || other === undefined ? [] : [own - other];
  });
  if (differences.length === 0) return undefined;
  return { n: differences.length, mean: summarize(differences).mean, half: interval95(differences) };
}

/** @param expected the sign that the claim gives the difference */
export function verdictOf({ n, mean, half }: Difference, expected: 1 | -1): Verdict {
  if (n < 3 || Math.abs(mean) <= half) return 'open';
  return Math.sign(mean) === expected ? 'holds' : 'does not hold in small';
}

export const digits = (value: number, count: number): string =>
  Number.isFinite(value) ? value.toFixed(count) : value > 0 ? '∞' : '–';

/** "1.23 (1.20–1.26)", or the one value there is. */
export function spread(summary: Summary | undefined, count = 3): string {
  if (!summary) return '–';
  const { n, mean, low, high } = summary;
  return n === 1 ? digits(mean, count) : `${digits(mean, count)} (${digits(low, count)} to ${digits(high, count)})`;
}

/** "+0.12 ± 0.03 (3 seeds)". */
export function signed({ n, mean, half }: Difference, count = 3): string {
  const value = `${mean < 0 ? '−' : '+'}${digits(Math.abs(mean), count)}`;
  return n < 2 ? `${value} (one seed)` : `${value} ± ${digits(half, count)} (${n} seeds)`;
}
