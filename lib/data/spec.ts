/** What a training config says about its pictures. */
import { invalidArgument } from '../errors.js';

/** The procedural set. */
export interface ShapesSpec {
  readonly kind: 'shapes';
  readonly seed: number;
  /** Pixels along one side. */
  readonly size: number;
}

/** Pixels along one side, or [height, width]. */
export type PictureSize = number | readonly [height: number, width: number];

/** What the samples of picture files are cut to; exactly one of the fields is given. */
interface CutTo {
  /** All of them to one size. */
  readonly size?: PictureSize;
  /** Each to the one of several sizes whose shape is nearest to its own; a batch holds one size. */
  readonly sizes?: readonly (readonly [height: number, width: number])[];
}

/** Pictures in a folder and below it, each with its caption in a .txt file of the same name. */
export interface FolderSpec extends CutTo {
  readonly kind: 'folder';
  readonly path: string;
  /** Order of the pictures, and everything else that is drawn for them. */
  readonly seed: number;
}

/** The official form: JSON lines that name a picture and its captions. */
export interface JsonlSpec extends CutTo {
  readonly kind: 'jsonl';
  /** A file, or a folder with .jsonl files. */
  readonly path: string;
  readonly seed: number;
  /** Where relative picture paths start; the folder of the .jsonl files by default. */
  readonly image_root?: string;
  /** Probability of the short caption; the official recipe's 0.5 by default. */
  readonly short_cap_prob?: number;
  /** Long captions end after a drawn number of sentences, as in the official recipe; true by default. */
  readonly enable_dynamic_length_prompt?: boolean;
}

/** Sets of picture files. */
export type PicturesSpec = FolderSpec | JsonlSpec;

/** What a worker thread needs to know about a dataset besides its files. */
export type DatasetSpec = ShapesSpec | PicturesSpec;

type Check = (value: unknown) => boolean;
type FieldRule = readonly [expected: string, check: Check];

const CURE = 'Correct that field; docs/training-configuration.md explains each.';

const isPixels =
  (most: number): Check =>
  (v) =>
    Number.isInteger(v) && (v as number) >= 16 && (v as number) <= most;
const isSide = isPixels(4096);

const seed: FieldRule = ['an integer from 0', (v) => Number.isSafeInteger(v) && (v as number) >= 0];
const isPair: Check = (v) => Array.isArray(v) && v.length === 2 && v.every(isSide);
const size: FieldRule = [
  "pixels from 16 to 4096, one number or [height, width], or 'sizes' instead of it,",
  (v) => v === undefined || isSide(v) || isPair(v),
];
const sizes: FieldRule = [
  'a list of [height, width] from 16 to 4096 pixels, no two of one shape, or nothing,',
  (v) =>
    v === undefined ||
    (Array.isArray(v) && v.length > 0 && v.every(isPair) && new Set(v.map(([h, w]) => h / w)).size === v.length),
];
const isPath: Check = (v) => typeof v === 'string' && v !== '';
const path: FieldRule = ['a path', isPath];

const RULES: Readonly<Record<DatasetSpec['kind'], Readonly<Record<string, FieldRule>>>> = {
  shapes: { seed, size: ['pixels from 16 to 1024', isPixels(1024)] },
  folder: { path, seed, size, sizes },
  jsonl: {
    path,
    image_root: ['a path, or nothing,', (v) => v === undefined || isPath(v)],
    seed,
    size,
    sizes,
    short_cap_prob: [
      'a number from 0 to 1, or nothing,',
      (v) => v === undefined || (typeof v === 'number' && v >= 0 && v <= 1),
    ],
    enable_dynamic_length_prompt: ['true, false or nothing', (v) => v === undefined || typeof v === 'boolean'],
  },
};

/** @throws InfinityError INVALID_ARGUMENT naming the field that is missing, unknown or out of range */
export function checkDatasetSpec(json: Readonly<Record<string, unknown>>): DatasetSpec {
  const kind = json.kind;
  if (typeof kind !== 'string' || !Object.hasOwn(RULES, kind))
    return invalidArgument('dataset.kind', `one of ${Object.keys(RULES).join(', ')}`, kind, CURE);
  const rules = RULES[kind as DatasetSpec['kind']];
  for (const [field, value] of Object.entries(json))
    if (field !== 'kind' && !Object.hasOwn(rules, field))
      invalidArgument(`dataset.${field}`, `no such field with '${kind}'`, value, CURE);
  for (const [field, [expected, check]] of Object.entries(rules))
    if (!check(json[field])) invalidArgument(`dataset.${field}`, expected, json[field], CURE);
  if ((json.size === undefined) === (json.sizes === undefined))
    invalidArgument('dataset.size', "one of 'size' and 'sizes'", json.sizes, CURE);
  return json as unknown as DatasetSpec;
}

/** Height and width in pixels that the samples of a dataset are cut to. */
export function sampleSizes(spec: DatasetSpec): readonly (readonly [height: number, width: number])[] {
  const { size } = spec;
  if (size === undefined) return (spec as PicturesSpec).sizes!;
  return [typeof size === 'number' ? [size, size] : size];
}

/** Height and width of the samples of a dataset that has one size. @throws InfinityError INVALID_ARGUMENT where it has several */
export function sampleSize(spec: DatasetSpec): readonly [height: number, width: number] {
  const [size, ...others] = sampleSizes(spec);
  if (others.length > 0) invalidArgument('dataset.sizes', 'one size', sampleSizes(spec), CURE);
  return size!;
}
