// Turns native/ops.def into lib/ops/generated.ts and lib/ops_digest.ts. `--check` exits 1 when a committed file is out of date.
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const header = '// Generated from native/ops.def by scripts/generate-ops.mjs. Do not edit.\n\n';

/** Name, inputs, outputs and parameters of every line of the table. */
function readOps() {
  const lines = readFileSync(join(root, 'native/ops.def'), 'utf8').matchAll(
    /^OP\(\s*(\w+),\s*(\d+|kMany),\s*(\d+|kMany),\s*"([^"]*)"\s*\)/gm,
  );
  return [...lines].map(([, ...fields]) => fields);
}

function table(ops) {
  const camel = (name) => name.replace(/_([a-z0-9])/g, (_, c) => c.toUpperCase());
  const count = (operands) => (operands === 'kMany' ? `'many'` : operands);
  const entries = ops.map(([name, inputs, outputs, params], id) => {
    const kinds = params
      .split(' ')
      .filter(Boolean)
      .map((p) => p[0])
      .join('');
    return `  ${camel(name)}: { id: ${id}, name: '${name}', inputs: ${count(inputs)}, outputs: ${count(outputs)}, params: '${kinds}' },`;
  });
  return `${header}/** An op as the native side knows it; \`params\` holds one letter a word: u unsigned, i signed, f float. A list has \`many\` operands. */
export interface OpDefinition {
  readonly id: number;
  readonly name: string;
  readonly inputs: number | 'many';
  readonly outputs: number | 'many';
  readonly params: string;
}

export const Op = {
${entries.join('\n')}
} as const satisfies Record<string, OpDefinition>;
`;
}

/** FNV-1a, as `digestOps` of native/core/ops.h computes it. */
function digest(ops) {
  let hash = 2166136261;
  for (const fields of ops)
    for (const byte of Buffer.from(`${fields.join(',')};`)) hash = Math.imul(hash ^ byte, 16777619);
  return hash >>> 0;
}

function digestModule(ops) {
  return `${header}/** Of the table of ops that this code speaks; an addon of another digest numbers its ops otherwise. */
export const OPS_DIGEST = 0x${digest(ops).toString(16).padStart(8, '0')};
`;
}

const ops = readOps();
for (const [file, text] of [
  ['lib/ops/generated.ts', table(ops)],
  ['lib/ops_digest.ts', digestModule(ops)],
]) {
  if (!process.argv.includes('--check')) writeFileSync(join(root, file), text);
  else if (readFileSync(join(root, file), 'utf8') !== text) {
    console.error(`${file} is out of date: run "npm run generate:ops".`);
    process.exitCode = 1;
  }
}
