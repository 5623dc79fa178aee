// Turns native/ops.def into lib/ops/generated.ts. `--check` exits 1 when the committed file is out of date.
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

export function generateOps() {
  const lines = readFileSync(join(root, 'native/ops.def'), 'utf8').matchAll(
    /^OP\(\s*(\w+),\s*(\d+|kMany),\s*(\d+|kMany),\s*"([^"]*)"\s*\)/gm,
  );
  const camel = (name) => name.replace(/_([a-z0-9])/g, (_, c) => c.toUpperCase());
  const count = (operands) => (operands === 'kMany' ? `'many'` : operands);
  const entries = [...lines].map(([, name, inputs, outputs, params], id) => {
    const kinds = params
      .split(' ')
      .filter(Boolean)
      .map((p) => p[0])
      .join('');
    return `  ${camel(name)}: { id: ${id}, name: '${name}', inputs: ${count(inputs)}, outputs: ${count(outputs)}, params: '${kinds}' },`;
  });
  return `// Generated from native/ops.def by scripts/generate-ops.mjs. Do not edit.

/** An op as the native side knows it; \`params\` holds one letter a word: u unsigned, i signed, f float. A list has \`many\` operands. */
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

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const target = join(root, 'lib/ops/generated.ts');
  const text = generateOps();
  if (process.argv.includes('--check')) {
    if (readFileSync(target, 'utf8') !== text) {
      console.error('lib/ops/generated.ts is out of date: run "npm run generate:ops".');
      process.exit(1);
    }
  } else {
    writeFileSync(target, text);
  }
}
