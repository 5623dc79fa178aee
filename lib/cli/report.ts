/** `report`: curves and samples of trainings as one page. */
import { join } from 'node:path';
import { Command } from 'commander';
import { REPORT_FILE, writeReport } from '../training/report/index.js';
import { print } from './context.js';

interface Flags {
  out?: string;
  json?: boolean;
}

async function report(directories: string[], { out, json }: Flags): Promise<void> {
  const path = out ?? (directories.length === 1 ? join(directories[0]!, REPORT_FILE) : REPORT_FILE);
  await writeReport(directories, path);
  if (path !== '-') print(json === true, { path }, () => path);
}

export function reportCommand(): Command {
  return new Command('report')
    .description('write a page with the curves and samples of trainings')
    .argument('<runs...>', 'output directories of trainings, shown side by side')
    .option('-o, --out <file>', `where the page goes (default: ${REPORT_FILE} of the run, or here for several)`)
    .option('--json', 'one JSON line on stdout')
    .action(report);
}
