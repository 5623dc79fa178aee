/** The report of one run or of several: from their directories to a page. */
import { basename, resolve } from 'node:path';
import { invalidArgument } from '../../errors.js';
import { writeOutput } from '../../io/output_file.js';
import { LOG_FILE, type LogLine, readRunLog } from '../run_log.js';
import { type ReportedRun, reportPage } from './page.js';
import { readSampleGrids } from './sample_grids.js';
import { curvesOf } from './series.js';

export { sampleGridPath } from './sample_grids.js';

export const REPORT_FILE = 'report.html';

async function readRun(directory: string, name: string): Promise<ReportedRun> {
  const lines: LogLine[] = [];
  for await (const line of readRunLog(directory)) lines.push(line);
  if (lines.length === 0)
    invalidArgument('the run', `a directory with ${LOG_FILE}`, directory, 'Give the --out directory of a training.');
  const curves = curvesOf(lines);
  return { name, ...curves, samples: await readSampleGrids(directory, curves.summary.lastStep) };
}

/** The last parts of paths that tell them apart, one for each. */
function shortNames(directories: readonly string[]): string[] {
  const parts = directories.map((directory) => resolve(directory).split(/[\\/]/));
  for (let count = 1; count < Math.max(...parts.map((p) => p.length)); count++) {
    const names = parts.map((p) => p.slice(-count).join('/'));
    if (new Set(names).size === names.length) return names;
  }
  return parts.map((p, i) => `${basename(p.join('/'))} (${i + 1})`);
}

/**
 * Writes the report of the runs in `directories`, side by side, to a file.
 * @throws InfinityError INVALID_ARGUMENT when one holds no run, IO_ERROR, DISK_FULL
 */
export async function writeReport(directories: readonly string[], path: string): Promise<void> {
  const names = shortNames(directories);
  const runs: ReportedRun[] = [];
  for (const [i, directory] of directories.entries()) runs.push(await readRun(directory, names[i]!));
  await writeOutput(path, [Buffer.from(reportPage(runs))]);
}
