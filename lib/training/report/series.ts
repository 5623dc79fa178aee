/** Curves of a run, thinned so that a page stays small however long the run was. */
import type { LogLine } from '../run_log.js';

/** What became of the values of some consecutive steps. */
export interface Bin {
  /** Last step of the bin. */
  readonly step: number;
  readonly mean: number;
  readonly low: number;
  readonly high: number;
}

/** A named curve; bins without a value are left out. */
export interface Curve {
  readonly name: string;
  /** One of the page's colours, or a place from 0 to 1 on its scale from first to last. */
  readonly colour: number | { readonly place: number };
  readonly bins: readonly Bin[];
}

const BINS = 160;

/** Gathers values into equal ranges of steps. */
class Binned {
  private readonly sums: { step: number; sum: number; low: number; high: number; count: number }[] = [];

  constructor(private readonly width: number) {}

  add(step: number, value: number): void {
    if (!Number.isFinite(value)) return;
    const place = Math.floor((step - 1) / this.width);
    const bin = this.sums[place] ?? { step, sum: 0, low: value, high: value, count: 0 };
    this.sums[place] = bin;
    bin.step = step;
    bin.sum += value;
    bin.count++;
    bin.low = Math.min(bin.low, value);
    bin.high = Math.max(bin.high, value);
  }

  /** Ranges without a value are holes of the array, which this passes over. */
  bins(): Bin[] {
    return this.sums.flatMap(({ step, sum, low, high, count }) => [{ step, mean: sum / count, low, high }]);
  }
}

/** Everything that a page tells of one run in numbers. */
export interface RunSummary {
  readonly lastStep: number;
  /** First and last line's time. */
  readonly begin: string;
  readonly end: string;
  /** Means over the last steps, by metric. */
  readonly final: ReadonlyMap<string, number>;
  readonly samplesPerSecond: number;
  readonly peakBytes: number;
  readonly badRows: number;
}

/** A run as it was read: its curves by quantity, and a summary. */
export interface RunCurves {
  readonly summary: RunSummary;
  readonly curves: ReadonlyMap<string, readonly Bin[]>;
}

/** The quantities of a line, by the name under which the page shows them. */
export function quantities(line: LogLine): Record<string, number> {
  const { liveBytes, peakBytes, rssBytes } = line.memory;
  const machine = { samplesPerSecond: line.samplesPerSecond, liveBytes, peakBytes, rssBytes };
  return { loss: line.loss, gradNorm: line.gradNorm, lr: line.lr, ...machine, ...line.metrics };
}

const sum = (values: readonly number[]): number => values.reduce((a, v) => a + v, 0);

/** @param lines in their order, at least one */
export function curvesOf(lines: readonly LogLine[]): RunCurves {
  const [first, last] = [lines[0]!, lines.at(-1)!];
  const width = Math.max(1, Math.ceil(last.step / BINS));
  const binned = new Map<string, Binned>();
  for (const line of lines)
    for (const [name, value] of Object.entries(quantities(line))) {
      const known = binned.get(name) ?? new Binned(width);
      binned.set(name, known);
      known.add(line.step, value);
    }
  const end = lines.slice(-Math.max(20, Math.ceil(lines.length / 100)));
  const mean = (name: string): number => {
    const values = end.map((line) => quantities(line)[name]).filter((v) => v !== undefined && Number.isFinite(v));
    return sum(values as number[]) / values.length;
  };
  const speeds = lines.map((line) => line.samplesPerSecond).sort((a, b) => a - b);
  return {
    curves: new Map([...binned].map(([name, b]) => [name, b.bins()])),
    summary: {
      lastStep: last.step,
      begin: first.time,
      end: last.time,
      final: new Map(Object.keys(quantities(last)).map((name) => [name, mean(name)])),
      samplesPerSecond: speeds[Math.floor(speeds.length / 2)]!,
      peakBytes: lines.reduce((most, { memory }) => Math.max(most, memory.peakBytes), 0),
      badRows: last.badRows ?? 0,
    },
  };
}
