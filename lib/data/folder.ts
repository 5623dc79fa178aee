/** A folder of pictures, each with its caption in a .txt file of the same name beside it. */
import { readdir, readFile } from 'node:fs/promises';
import { join, parse, relative, sep } from 'node:path';
import { isImagePath } from '../io/image.js';
import type { SetDigests } from './file_digests.js';
import { fileDigest, mapFiles, type Row, unreadable } from './rows.js';

/** Names of all pictures in `folder` and below, with / between folders, in the order of their code units. */
async function pictureNames(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch((cause) =>
    unreadable(folder, cause),
  );
  // Names with a leading dot are notes that systems leave beside the files of a user.
  return entries
    .filter((entry) => !entry.isDirectory() && !entry.name.startsWith('.') && isImagePath(entry.name))
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)).split(sep).join('/'))
    .sort();
}

async function captionOf(picture: string): Promise<Pick<Row, 'captions' | 'problem'>> {
  const { dir, name } = parse(picture);
  let text: string;
  try {
    text = await readFile(join(dir, `${name}.txt`), 'utf8');
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    return {
      problem: code === 'ENOENT' ? `no caption: ${name}.txt is missing` : `${name}.txt cannot be read (${code})`,
    };
  }
  const caption = text.replace(/^\uFEFF/, '').trim();
  if (caption === '') return { problem: `no caption: ${name}.txt is empty` };
  return { captions: { long: caption, short: '', whole: true } };
}

/**
 * The pictures of a folder.
 * @param captions whether each needs one; otherwise no caption is read
 * @throws InfinityError IO_ERROR when the folder cannot be read
 */
export async function listFolder(folder: string, captions: boolean, digests: SetDigests): Promise<Row[]> {
  return mapFiles(await pictureNames(folder), async (name) => {
    const path = join(folder, name);
    const digest = await fileDigest(path, digests);
    return { name, image: name, ...(captions ? await captionOf(path) : {}), ...digest };
  });
}
