/** `npm run conformance -- --dir DIR [--photos DIR] [--only TEXT] [--device cpu|cuda] [--json]`: see docs/conformance.md. */
import { statSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Device } from '../../lib/device.js';
import { Report } from './report.js';
import { runConformance } from './runner.js';

const USAGE = 'usage: npm run conformance -- --dir DIR [--photos DIR] [--only TEXT] [--device cpu|cuda] [--json]';

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

function parse() {
  const options = {
    dir: { type: 'string' },
    photos: { type: 'string' },
    only: { type: 'string' },
    device: { type: 'string', default: 'cpu' },
    json: { type: 'boolean' },
  } as const;
  try {
    return parseArgs({ options }).values;
  } catch (error) {
    return (error as Error).message;
  }
}

async function main(): Promise<number> {
  const args = parse();
  const dir = typeof args === 'string' ? undefined : args.dir;
  if (
    typeof args === 'string' ||
    dir === undefined ||
    !isFolder(dir) ||
    (args.photos !== undefined && !isFolder(args.photos))
  ) {
    const reason = typeof args === 'string' ? args : dir === undefined ? 'no --dir' : 'not a folder';
    console.error(`${reason}\n${USAGE}`);
    return 2;
  }
  const { json, device, ...request } = args;
  if (device !== 'cpu' && device !== 'cuda') {
    console.error(`no such device: ${device}\n${USAGE}`);
    return 2;
  }
  Device.prefer(device);
  try {
    Device.default();
  } catch (error) {
    console.error((error as Error).message);
    return 1;
  }
  const report = new Report(console.log);
  const totals = (await runConformance({ ...request, dir }, report)).totals();
  if (totals.cases === 0) console.error(`No case below ${dir}.`);
  const { cases, tensors, failed, skipped, worst } = totals;
  // Told under NODE_INFINITY_DEBUG=guard.
  const { damagedGuards = 0 } = Device.default().stats();
  console.log(
    `${cases} cases, ${tensors} comparisons, ${failed} failed, ${skipped} skipped, worst relative error ${worst?.toExponential(2) ?? '-'}`,
  );
  if (damagedGuards > 0) console.error(`${damagedGuards} tensors whose guard zones were overwritten`);
  if (json) console.log(JSON.stringify(totals));
  return failed > 0 || cases === 0 || damagedGuards > 0 ? 1 : 0;
}

process.exitCode = await main();
