/**
 * `npx tsx benchmarks/card/table.ts OURS.jsonl [PEERS.jsonl] [LEVEL...]`: every result (of some levels) with its ratio to the peers of the same round, and the
 * fraction of the floor that the larger of both measured ceilings gives.
 */
import { readFileSync } from 'node:fs';
import { type Row, round, table } from '../harness.js';
import { caseName } from './cases.js';
import { type Ceilings, floorOf } from './measure.js';

type Result = Readonly<Record<string, string | number>>;

const read = (path: string): Result[] =>
  readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Result);

const number = (value: string | number | undefined): number => (value === undefined ? 0 : Number(value));

/** The best copy and the best product of either side. */
export function ceilingsOf(results: readonly Result[]): Ceilings {
  const best = (prefix: string, work: 'gflop' | 'mbyte', unit: number): number =>
    Math.max(
      0,
      ...results
        .filter(({ name, median_ms }) => String(name).startsWith(prefix) && number(median_ms) > 0)
        .map((row) => (number(row[work]) * unit) / (number(row.median_ms) / 1e3)),
    );
  return { bandwidth: best('copy of', 'mbyte', 1e6), rate: best('product ', 'gflop', 1e9) };
}

/** Of several peers that stand for one, as backends of attention do, the fastest counts. */
function fastest(peers: readonly Result[], name: string, kind: string): number | undefined {
  const times = peers
    .filter((row) => row.name === name && String(row.peer).split(':')[0] === kind && row.median_ms !== undefined)
    .map((row) => number(row.median_ms));
  return times.length > 0 ? Math.min(...times) : undefined;
}

/** One row a result of ours, of some levels or of all; ratios above 1 are in our favour. */
export function compare(ours: readonly Result[], peers: readonly Result[], levels: readonly string[] = []): Row[] {
  const ceilings = ceilingsOf([...ours, ...peers]);
  const seen = new Set<string>();
  return ours.flatMap((row): Row[] => {
    const { benchmark, name, median_ms, gflop, mbyte, peak_mib, launches } = row;
    // Every level measures the ceilings again.
    if (median_ms === undefined || seen.has(String(name))) return [];
    if (levels.length > 0 && !levels.includes(String(benchmark))) return [];
    seen.add(String(name));
    const floor = floorOf({ flops: number(gflop) * 1e9, bytes: number(mbyte) * 1e6 }, ceilings) * 1e3;
    const ratio = (kind: string): string | number => {
      const time = fastest(peers, caseName(String(name)), kind);
      return time === undefined ? '' : round(time / number(median_ms), 2);
    };
    return [
      {
        name: name!,
        ms: median_ms,
        'over eager': ratio('eager'),
        'over compiled': ratio('compiled'),
        'of floor': floor > 0 ? round(floor / number(median_ms), 2) : '',
        'peak MiB': peak_mib ?? '',
        launches: launches ?? '',
      },
    ];
  });
}

if (import.meta.url === `file://${process.argv[1]}`) {
  const files = process.argv.slice(2).filter((word) => word.endsWith('.jsonl'));
  const levels = process.argv.slice(2).filter((word) => !files.includes(word));
  const [ours, peers] = files;
  if (!ours) {
    console.error('Usage: npx tsx benchmarks/card/table.ts OURS.jsonl [PEERS.jsonl] [LEVEL...]');
    process.exit(2);
  }
  const others = peers ? read(peers) : [];
  console.log(table(compare(read(ours), others, levels)));
  for (const { peer, name, error } of others) if (error) console.log(`${peer} failed at ${name}: ${error}`);
}
