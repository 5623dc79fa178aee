/**
 * Golden data: NODE_INFINITY_GOLDENS names the complete folder; without it the committed subset serves.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const COMMITTED = fileURLToPath(new URL('../fixtures/goldens', import.meta.url));

/** Absolute path of a golden file such as "transformer/a_rope2d.json", or undefined when it is not at hand. */
export function goldenPath(name: string): string | undefined {
  const folders = [process.env.NODE_INFINITY_GOLDENS, COMMITTED];
  return folders.map((folder) => folder && join(folder, name)).find((path) => path && existsSync(path)) || undefined;
}

/** Like `goldenPath`; a test that needs an absent file is skipped, with the reason in its title. */
export function requireGolden(context: Mocha.Context, name: string): string {
  const path = goldenPath(name);
  if (path) return path;
  if (context.test) context.test.title += ` (needs ${name}: set NODE_INFINITY_GOLDENS)`;
  return context.skip();
}

/** A golden JSON file. The caller names its shape. */
export function readGoldenJson<T>(context: Mocha.Context, name: string): T {
  return JSON.parse(readFileSync(requireGolden(context, name), 'utf8')) as T;
}
