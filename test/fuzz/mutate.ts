/** Mutations of files that know nothing of the format, or only that it is JSON. */
import type { Random } from './random.js';

type Mutation = (bytes: Buffer, random: Random, seeds: readonly Uint8Array[]) => Buffer;

const EDGES = [0n, 1n, 2n, 0x7fn, 0x80n, 0xffn, 0x7fffn, 0xffffn, 0x7fffffffn, 0x80000000n, 0xffffffffn, 2n ** 53n];
const WIDEST = (1n << 64n) - 1n;
const TOKENS = [
  '-1',
  '0',
  '1e309',
  '-0',
  '0.5',
  '4294967296',
  '9007199254740993',
  'null',
  'true',
  '""',
  '[]',
  '{}',
  '[[',
  '"',
  ',',
];
/** Repetitions grow a file to this at most; a few to the second, to show what grows faster than the file. */
const GROWN = 1 << 14;
const LARGE = 1 << 18;

function range(bytes: Buffer, random: Random): [begin: number, end: number] {
  const begin = random.below(bytes.length + 1);
  const length = random.chance(0.5) ? random.below(9) : random.below(bytes.length - begin + 1);
  return [begin, Math.min(bytes.length, begin + length)];
}

function splice(bytes: Buffer, begin: number, end: number, middle: Uint8Array): Buffer {
  return Buffer.concat([bytes.subarray(0, begin), middle, bytes.subarray(end)]);
}

/** A length, count or offset that somebody might believe. */
function setInteger(bytes: Buffer, random: Random): Buffer {
  const width = random.pick([1, 2, 4, 8]);
  if (bytes.length < width) return bytes;
  const at = random.below(bytes.length - width + 1);
  const rest = BigInt(bytes.length - at - width);
  const bound = random.pick([...EDGES, rest, rest + 1n, rest - 1n, BigInt(bytes.length), WIDEST, WIDEST >> 1n]);
  const value = BigInt.asUintN(8 * width, bound);
  const little = random.chance(0.5);
  for (let i = 0; i < width; i++)
    bytes[little ? at + i : at + width - 1 - i] = Number((value >> BigInt(8 * i)) & 0xffn);
  return bytes;
}

/** Replaces a run of digits, or cuts in a token of JSON. */
function setToken(bytes: Buffer, random: Random): Buffer {
  const from = random.below(bytes.length + 1);
  const isDigit = (at: number) => at < bytes.length && bytes[at]! >= 0x30 && bytes[at]! <= 0x39;
  let begin = from;
  while (begin < bytes.length && !isDigit(begin)) begin++;
  let end = begin;
  while (isDigit(end)) end++;
  return splice(bytes, begin, end, Buffer.from(random.pick(TOKENS)));
}

function repeat(bytes: Buffer, random: Random): Buffer {
  const [begin, end] = range(bytes, random);
  const length = Math.max(1, end - begin);
  const room = (random.chance(0.02) ? LARGE : GROWN) - bytes.length;
  const times = Math.min(Math.floor(room / length), random.chance(0.2) ? Number.POSITIVE_INFINITY : random.below(20));
  if (times < 1) return bytes;
  return splice(
    bytes,
    end,
    end,
    Buffer.concat(Array.from({ length: times }, () => bytes.subarray(begin, begin + length))),
  );
}

const MUTATIONS: readonly Mutation[] = [
  (bytes, random) => {
    if (bytes.length > 0) bytes[random.below(bytes.length)]! ^= 1 << random.below(8);
    return bytes;
  },
  (bytes, random) => {
    if (bytes.length > 0) bytes[random.below(bytes.length)] = random.below(256);
    return bytes;
  },
  setInteger,
  setInteger,
  setToken,
  repeat,
  (bytes, random) => bytes.subarray(0, random.below(bytes.length + 1)),
  (bytes, random) => bytes.subarray(random.below(Math.min(bytes.length, 16) + 1)),
  (bytes, random) => splice(bytes, ...range(bytes, random), Buffer.alloc(0)),
  (bytes, random) => {
    const at = random.below(bytes.length + 1);
    return splice(bytes, at, at, Buffer.from(Array.from({ length: 1 + random.below(8) }, () => random.below(256))));
  },
  (bytes, random) => {
    const [begin, end] = range(bytes, random);
    const at = random.below(bytes.length + 1);
    return splice(bytes, at, at, bytes.subarray(begin, end));
  },
  (bytes, random, seeds) => {
    const other = random.pick(seeds);
    return splice(bytes, random.below(bytes.length + 1), bytes.length, other.subarray(random.below(other.length + 1)));
  },
];

/** One to eight mutations of a file. */
export function mutateBytes(random: Random, bytes: Uint8Array, seeds: readonly Uint8Array[]): Uint8Array {
  let mutated: Buffer = Buffer.from(bytes);
  const count = 1 + random.below(random.chance(0.7) ? 2 : 8);
  for (let i = 0; i < count; i++) mutated = random.pick(MUTATIONS)(mutated, random, seeds);
  return mutated;
}

/** Values that a field may hold although nobody expects them there. */
const VALUES: readonly (() => unknown)[] = [
  ...[null, true, false, 0, 1, -1, 0.5, -0.5, 1e308, -1e308, 2 ** 31, 2 ** 32, 2 ** 53, 1e-320].map((v) => () => v),
  ...['', 'a', '\0', '\ud800', '▁', '../x', '__proto__', 'constructor', 'x'.repeat(1000)].map((v) => () => v),
  () => [],
  () => ({}),
  () => [null],
  () => ({ type: 'Sequence', normalizers: [null], pretokenizers: [{}] }),
  () => JSON.parse('{"__proto__": {"type": "x"}}') as unknown,
  () => Array.from({ length: 100 }, (_, i) => i),
  () => Array.from({ length: 60 }).reduce<unknown>((inner) => [inner], 1),
];

type Node = { readonly parent: Record<string, unknown>; readonly key: string };

function nodesOf(value: unknown): Node[] {
  const nodes: Node[] = [];
  const pending: unknown[] = [value];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    if (typeof next !== 'object' || next === null) continue;
    const parent = next as Record<string, unknown>;
    const keys = Object.keys(parent);
    // Of a long list a few stand for all.
    for (const key of keys.length > 40 ? [...keys.slice(0, 8), ...keys.slice(-8)] : keys) {
      nodes.push({ parent, key });
      pending.push(parent[key]);
    }
  }
  return nodes;
}

/** Replaces, removes, renames, copies or wraps values of a JSON document; other files are returned as they are. */
export function mutateJson(random: Random, bytes: Uint8Array): Uint8Array {
  let document: unknown;
  try {
    document = JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    return bytes;
  }
  const root = { document };
  for (let left = 1 + random.below(4); left > 0; left--) {
    const nodes = nodesOf(root);
    if (nodes.length === 0) break;
    const { parent, key } = random.pick(nodes);
    const other = random.pick(nodes);
    const copy = (value: unknown) => JSON.parse(JSON.stringify(value) ?? 'null') as unknown;
    switch (random.below(6)) {
      case 0:
        delete parent[key];
        break;
      case 1:
        parent[key] = copy(other.parent[other.key]);
        break;
      case 2:
        parent[random.pick([`${key}x`, '__proto__', '', 'type'])] = copy(parent[key]);
        break;
      case 3:
        parent[key] = [parent[key]];
        break;
      default:
        parent[key] = random.pick(VALUES)();
    }
  }
  return Buffer.from(JSON.stringify(root.document) ?? '');
}
