/** Measures what is missing, cell by cell, and writes the pages after each. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Cell, Context, Experiment } from './experiment.js';
import { htmlPage, type Measured, markdownPage } from './report.js';
import { cellKey, type Record, type Store } from './store.js';

/** A cell in its place in the run. */
interface Planned {
  readonly experiment: Experiment;
  readonly cell: Cell;
  readonly key: string;
}

/** All cells in the order in which they are measured: round by round, so that an unfinished run shows something of everything. */
export function planned(experiments: readonly Experiment[], short: boolean): Planned[] {
  const all = experiments.flatMap((experiment) =>
    experiment.cells(short).map((cell) => ({ experiment, cell, key: cellKey(experiment, cell) })),
  );
  return all.sort((a, b) => a.cell.round - b.cell.round);
}

export interface RunHooks {
  /** Hears of every cell before and after it is measured. */
  onCell?(planned: Planned, left: readonly Planned[]): void;
  onRecord?(record: Record, left: readonly Planned[]): Promise<void> | void;
}

/** Cells that no record answers. */
export function missing(plan: readonly Planned[], store: Store): Planned[] {
  return plan.filter(({ key }) => !store.get(key));
}

export const expectedSeconds = (cells: readonly Planned[]): number =>
  cells.reduce((sum, { cell }) => sum + cell.seconds, 0);

/** @throws the signal's reason after an abort; the cells before are recorded */
export async function measure(
  plan: readonly Planned[],
  store: Store,
  context: Context,
  machine: Record['machine'],
  { onCell, onRecord }: RunHooks = {},
): Promise<void> {
  for (const next of missing(plan, store)) {
    context.signal.throwIfAborted();
    const { experiment, cell, key } = next;
    onCell?.(next, missing(plan, store));
    const [begin, used] = [performance.now(), process.cpuUsage()];
    const values = await cell.run(context);
    const wrong = Object.entries(values).find(([, value]) => Number.isNaN(value));
    if (wrong) throw new Error(`Expected a number for ${wrong[0]} of ${experiment.name} but received ${wrong[1]}.`);
    const seconds = Number(((performance.now() - begin) / 1e3).toFixed(1));
    const { user, system } = process.cpuUsage(used);
    const cpuSeconds = Number(((user + system) / 1e6).toFixed(1));
    const record = {
      key,
      experiment: experiment.name,
      version: experiment.version,
      config: cell.config,
      values,
      seconds,
      cpuSeconds,
      machine,
    };
    await store.add(record);
    await onRecord?.(record, missing(plan, store));
  }
}

/** What was measured of every experiment. */
export function measuredOf(experiments: readonly Experiment[], plan: readonly Planned[], store: Store): Measured[] {
  return experiments.map((experiment) => {
    const own = plan.filter((p) => p.experiment === experiment);
    return { experiment, cells: own.length, records: own.flatMap(({ key }) => store.get(key) ?? []) };
  });
}

/** Writes `results.md` and, in `results/`, its plots, the records and the self-contained page. */
export async function publish(measured: readonly Measured[], directory: string): Promise<void> {
  const folder = join(directory, 'results');
  await mkdir(folder, { recursive: true });
  const { page, files } = markdownPage(measured, 'results');
  const records = measured.flatMap((m) => m.records).map((record) => `${JSON.stringify(record)}\n`);
  await writeFile(join(directory, 'results.md'), page);
  await writeFile(join(folder, 'records.jsonl'), records.join(''));
  await writeFile(join(folder, 'claims.html'), htmlPage(measured));
  for (const [name, svg] of files) await writeFile(join(folder, name), svg);
}
