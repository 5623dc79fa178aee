/** The floors of the house: a file imports only from floors below its own or from its own room, and never in a circle. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join, posix } from 'node:path';
import { packageRoot } from '../../lib/native.js';

/** Rooms from the ground up: files and folders of lib/. Rooms of one floor do not know each other. */
const LIB_FLOORS: readonly (readonly string[])[] = [
  ['errors.ts', 'ops_digest.ts'],
  ['native.ts', 'philox.ts', 'io'],
  ['device.ts', 'data'],
  ['tensor.ts'],
  ['program.ts'],
  ['ops', 'submission.ts'],
  ['tape.ts'],
  ['nn'],
  ['text', 'tokenizer'],
  ['transformer'],
  ['weights'],
  ['pipeline', 'training'],
  ['eval', 'training.ts'],
  ['index.ts', 'cli'],
];

/** Rooms of native/. Kernels know their backend's layers, nothing below knows a kernel: entries announce themselves by name. */
const NATIVE_FLOORS: readonly (readonly string[])[] = [
  ['ops.def'],
  ['core'],
  ['cpu', 'cuda'],
  ['ops'],
  ['addon', 'tests'],
  ['addon.cc'],
];

type Graph = ReadonlyMap<string, readonly string[]>;

/** Files below `folder` of the package that end in `extension`, with the files that each of them names. */
function graphOf(folder: string, extension: RegExp, targets: (file: string, text: string) => string[]): Graph {
  const root = join(packageRoot(), folder);
  const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
    .map((file) => file.replaceAll('\\', '/'))
    .filter((file) => extension.test(file))
    .sort();
  return new Map(files.map((file) => [file, targets(file, readFileSync(join(root, file), 'utf8'))]));
}

/** Relative imports of a module: static, re-exported, type-only and dynamic ones. */
function importsOf(file: string, text: string): string[] {
  const specifiers = text.matchAll(/\bfrom '(\.[^']+)'|\bimport\('(\.[^']+)'\)|^import '(\.[^']+)'/gm);
  return [...specifiers].map(([, from, dynamic, bare]) =>
    posix.join(posix.dirname(file), (from ?? dynamic ?? bare)!).replace(/\.js$/, '.ts'),
  );
}

/** Quoted includes, which start at native/, except for the table of ops. */
function includesOf(file: string, text: string): string[] {
  return [...text.matchAll(/^#include "([^"]+)"/gm)].map(([, name]) =>
    name!.startsWith('.') ? posix.join(posix.dirname(file), name!) : name!,
  );
}

/** A path of files that ends where it began, or undefined. */
function findCircle(graph: Graph): string[] | undefined {
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (file: string): string[] | undefined => {
    const begin = path.indexOf(file);
    if (begin >= 0) return [...path.slice(begin), file];
    if (done.has(file)) return undefined;
    path.push(file);
    for (const target of graph.get(file) ?? []) {
      const circle = visit(target);
      if (circle) return circle;
    }
    path.pop();
    done.add(file);
    return undefined;
  };
  for (const file of graph.keys()) {
    const circle = visit(file);
    if (circle) return circle;
  }
  return undefined;
}

/** "a -> b" for every import that leads to the same floor or a higher one, outside the importer's own room. */
function upwardImports(graph: Graph, floors: readonly (readonly string[])[]): string[] {
  const roomOf = (file: string): string => file.split('/')[0]!;
  const floorOf = (file: string): number => floors.findIndex((rooms) => rooms.includes(roomOf(file)));
  const wrong: string[] = [];
  for (const [file, targets] of graph) {
    if (floorOf(file) < 0) wrong.push(`${file} stands on no floor: give its room one`);
    for (const target of targets)
      if (roomOf(target) !== roomOf(file) && floorOf(target) >= floorOf(file)) wrong.push(`${file} -> ${target}`);
  }
  return wrong;
}

describe('imports', () => {
  for (const [folder, graph, floors] of [
    ['lib', graphOf('lib', /\.ts$/, importsOf), LIB_FLOORS],
    ['native', graphOf('native', /\.(h|cc|cu|cuh|def)$/, includesOf), NATIVE_FLOORS],
  ] as const) {
    it(`of ${folder}/ lead to files that exist`, () => {
      for (const [file, targets] of graph)
        for (const target of targets) assert.ok(graph.has(target), `${file} imports ${target}, which is not there`);
      assert.ok([...graph.values()].flat().length > graph.size, 'the search for imports finds few');
    });

    it(`of ${folder}/ lead downwards`, () => {
      assert.deepEqual(upwardImports(graph, floors), []);
    });

    it(`of ${folder}/ form no circle`, () => {
      assert.equal(findCircle(graph)?.join(' -> '), undefined);
    });
  }

  it('that lead upwards or in a circle are found', () => {
    const graph: Graph = new Map([
      ['errors.ts', ['ops/run.ts']],
      ['ops/run.ts', ['ops/record.ts']],
      ['ops/record.ts', ['errors.ts']],
      ['attic/box.ts', []],
    ]);
    assert.deepEqual(upwardImports(graph, LIB_FLOORS), [
      'errors.ts -> ops/run.ts',
      'attic/box.ts stands on no floor: give its room one',
    ]);
    assert.deepEqual(findCircle(graph), ['errors.ts', 'ops/run.ts', 'ops/record.ts', 'errors.ts']);
  });
});
