/** What the documents point at exists: relative links, and files of this repository. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { packageRoot } from '../../lib/native.js';

const root = packageRoot();
const documents = [
  ...readdirSync(root).filter((name) => name.endsWith('.md')),
  ...readdirSync(join(root, 'docs')).map((name) => `docs/${name}`),
].filter((name) => name.endsWith('.md'));

/** Targets of links without their anchors, web addresses left out, from the root of the repository. */
function linksOf(document: string, text: string): string[] {
  const targets = [...text.matchAll(/\]\(([^)#\s]+)(?:#[^)]*)?\)/g)].map(([, target]) => target!);
  return targets.filter((target) => !/^\w+:/.test(target)).map((target) => join(dirname(document), target));
}

/** Paths such as lib/tensor.ts, in code marks and in commands; folders may be made on the way. */
function pathsOf(text: string): string[] {
  const path =
    /(?<![\w./-])(?:lib|native|test|scripts|models|docs|benchmarks)\/[\w./-]*\.(?:ts|mjs|json|md|cc|h|def)\b/g;
  return text.match(path) ?? [];
}

describe('documents', () => {
  for (const document of documents) {
    it(`${document} points at files that exist`, () => {
      const text = readFileSync(join(root, document), 'utf8');
      for (const target of [...linksOf(document, text), ...pathsOf(text)])
        assert.ok(existsSync(join(root, target)), `${document} names ${target}, which is not there`);
    });
  }

  it('are searched for links and for paths', () => {
    const readme = readFileSync(join(root, 'README.md'), 'utf8');
    assert.ok(linksOf('README.md', readme).includes('docs/decisions.md'));
    assert.ok(pathsOf('see `lib/no/such.ts`').some((path) => !existsSync(join(root, path))));
  });
});
