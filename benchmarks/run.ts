/** `npm run bench [-- --json] [--only kernels] [--filter conv] [--isa avx2]`: a table, or with --json one line a result. */
import { parseArgs } from 'node:util';
import { jsonLine, type Row, table } from './harness.js';
import { kernels } from './kernels.js';

const { values } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    only: { type: 'string' },
    filter: { type: 'string' },
    isa: { type: 'string' },
  },
});

const benchmarks: Record<string, () => AsyncIterable<Row>> = { kernels: () => kernels(values) };

for (const [name, run] of Object.entries(benchmarks)) {
  if (values.only && values.only !== name) continue;
  const rows: Row[] = [];
  for await (const row of run()) {
    rows.push(row);
    if (values.json) console.log(jsonLine(row));
  }
  if (!values.json && rows.length > 0) console.log(`${table(rows)}\n`);
}
