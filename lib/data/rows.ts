/** Rows of a set of picture files: what is known of each before its picture is decoded. */
import { stat } from 'node:fs/promises';
import { InfinityError } from '../errors.js';
import type { SetDigests } from './file_digests.js';

/** What a row says about its picture. */
export interface Captions {
  /** The main caption. */
  readonly long: string;
  /** Empty where there is none. */
  readonly short: string;
  /** The long caption is never cut after a sentence. */
  readonly whole: boolean;
}

/** One picture of a set. */
export interface Row {
  /** What messages call it: a picture's name in its folder, or a file and the number of a line. */
  readonly name: string;
  /** The picture file, relative to the listing's root or absolute; empty where the row names none. */
  readonly image: string;
  /** SHA-256 of that file; absent where it cannot be read. */
  readonly sha256?: string;
  /** Absent where the row has none, and in a training that needs none. */
  readonly captions?: Captions;
  /** Height divided by width as the row says it; a picture whose row does not is looked at. */
  readonly ratio?: number;
  /** Which of several sizes it is cut to. */
  readonly bucket?: number;
  /** Why no sample can be made of this row. */
  readonly problem?: string;
}

/** Digest of a picture file, or why it cannot be had. */
export async function fileDigest(path: string, digests: SetDigests): Promise<Pick<Row, 'sha256' | 'problem'>> {
  try {
    if (!(await stat(path)).isFile()) return { problem: `the picture ${path} is not a file` };
    return { sha256: await digests.of(path) };
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    return {
      problem: code === 'ENOENT' ? `no picture file ${path}` : `the picture file ${path} cannot be read (${code})`,
    };
  }
}

/** Files that are asked for at once while a set is listed. */
const AT_ONCE = 64;

/** Maps in order, a bounded number at once. */
export async function mapFiles<A, B>(items: readonly A[], map: (item: A) => Promise<B>): Promise<B[]> {
  const mapped: B[] = [];
  for (let i = 0; i < items.length; i += AT_ONCE)
    mapped.push(...(await Promise.all(items.slice(i, i + AT_ONCE).map(map))));
  return mapped;
}

/** Throws for a path that was given and cannot be read. */
export function unreadable(path: string, cause: unknown): never {
  const code = (cause as NodeJS.ErrnoException).code;
  throw new InfinityError('IO_ERROR', `Cannot read ${path}, the path of the dataset (${code}).`, {
    value: path,
    cure: 'Correct dataset.path in the config; a relative one starts at the current directory.',
    cause,
  });
}
