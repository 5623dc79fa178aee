/** What a set of picture files holds, listed once when a training is opened and the same for its whole life. */
import { createHash } from 'node:crypto';
import { resolve } from 'node:path';
import { invalidArgument } from '../errors.js';
import { IMAGE_FORMATS } from '../io/image.js';
import { allBad, type BadRow } from './bad_rows.js';
import { withBuckets } from './buckets.js';
import type { FileDigests } from './file_digests.js';
import { listFolder } from './folder.js';
import { jsonlFiles, listJsonl } from './jsonl.js';
import type { Row } from './rows.js';
import { type PicturesSpec, sampleSizes } from './spec.js';

/** Plain data: a worker thread gets a copy. */
export interface Listing {
  /** Where relative picture paths start. */
  readonly root: string;
  readonly rows: readonly Row[];
  /** Of names, contents and captions of all rows, wherever the set lies: equal digests give equal samples. */
  readonly digest: string;
}

function digestOf(rows: readonly Row[]): string {
  const hash = createHash('sha256');
  for (const { name, image, sha256, captions, bucket } of rows) {
    const said = [name, image, sha256, captions?.long, captions?.short, captions?.whole];
    hash.update(`${JSON.stringify(bucket === undefined ? said : [...said, bucket])}\n`);
  }
  return hash.digest('hex');
}

/** The rows that are known to be bad before a picture was decoded. */
export function listedAsBad({ rows }: Listing): BadRow[] {
  return rows.flatMap(({ name, problem }, row) => (problem === undefined ? [] : [{ row, name, reason: problem }]));
}

/**
 * Lists a set.
 * @param captions whether its rows need one
 * @param found digests of files that are known already
 * @throws InfinityError IO_ERROR when the path cannot be read, INVALID_ARGUMENT when nothing there can be drawn
 */
export async function listPictures(spec: PicturesSpec, captions: boolean, found: FileDigests): Promise<Listing> {
  const path = resolve(spec.path);
  const { folder, files } = spec.kind === 'jsonl' ? await jsonlFiles(path) : { folder: path, files: [] };
  const root = spec.kind === 'jsonl' && spec.image_root !== undefined ? resolve(spec.image_root) : folder;
  const digests = await found.of(path);
  const listed =
    spec.kind === 'jsonl' ? await listJsonl(files, root, captions, digests) : await listFolder(path, captions, digests);
  await digests.save();
  if (listed.length === 0) {
    const expected =
      spec.kind === 'jsonl' ? 'a .jsonl file with lines' : `a folder with ${IMAGE_FORMATS.join(', ')} files`;
    invalidArgument(
      'dataset.path',
      expected,
      spec.path,
      'Correct it; a relative path starts at the current directory.',
    );
  }
  const sizes = sampleSizes(spec);
  const rows = sizes.length > 1 ? await withBuckets(listed, root, sizes) : listed;
  const listing = { root, rows, digest: digestOf(rows) };
  const bad = listedAsBad(listing);
  if (bad.length === rows.length) allBad(spec.path, bad);
  return listing;
}
