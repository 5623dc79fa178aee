/** The official form of a training set: a JSON object a line. Source: Infinity, infinity/dataset/dataset_t2i_iterable.py. */
import { createReadStream } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { hasCaption } from './captions.js';
import type { SetDigests } from './file_digests.js';
import { type Captions, fileDigest, mapFiles, type Row, unreadable } from './rows.js';

/** The .jsonl files that `path` stands for, in order, and the folder that they lie in. */
export async function jsonlFiles(path: string): Promise<{ folder: string; files: readonly string[] }> {
  try {
    if (!(await stat(path)).isDirectory()) return { folder: dirname(path), files: [path] };
    const names = (await readdir(path)).filter((name) => name.endsWith('.jsonl') && !name.startsWith('.'));
    return { folder: path, files: names.sort().map((name) => join(path, name)) };
  } catch (cause) {
    return unreadable(path, cause);
  }
}

function captionsOf(line: Readonly<Record<string, unknown>>): Captions {
  const text = (key: string): string => (typeof line[key] === 'string' ? line[key].trim() : '');
  return {
    long: text('long_caption'),
    short: text('text'),
    whole: line.long_caption_type === 'user_prompt',
  };
}

function parseLine(text: string, name: string, captions: boolean): Row {
  let line: unknown;
  try {
    line = JSON.parse(text);
  } catch (cause) {
    return { name, image: '', problem: `not JSON: ${(cause as Error).message}` };
  }
  if (typeof line !== 'object' || line === null || Array.isArray(line))
    return { name, image: '', problem: 'not a JSON object' };
  const fields = line as Readonly<Record<string, unknown>>;
  const image = fields.image_path;
  if (typeof image !== 'string' || image === '') return { name, image: '', problem: 'no image_path' };
  const shaped = typeof fields.h_div_w === 'number' && fields.h_div_w > 0 ? { ratio: fields.h_div_w } : {};
  if (!captions) return { name, image, ...shaped };
  const said = captionsOf(fields);
  if (!hasCaption(said)) return { name, image, problem: 'no caption: long_caption and text are empty' };
  return { name, image, captions: said, ...shaped };
}

async function linesOf(file: string, captions: boolean): Promise<Row[]> {
  const rows: Row[] = [];
  let number = 0;
  try {
    for await (const text of createInterface({ input: createReadStream(file, 'utf8'), crlfDelay: Infinity })) {
      number++;
      const line = text.replace(/^\uFEFF/, '');
      if (line.trim() !== '') rows.push(parseLine(line, `${basename(file)}:${number}`, captions));
    }
  } catch (cause) {
    unreadable(file, cause);
  }
  return rows;
}

/**
 * The rows of .jsonl files. Empty lines are none.
 * @param root where relative picture paths start
 * @param captions whether each row needs one
 * @throws InfinityError IO_ERROR when a file cannot be read
 */
export async function listJsonl(
  files: readonly string[],
  root: string,
  captions: boolean,
  digests: SetDigests,
): Promise<Row[]> {
  const rows: Row[] = [];
  for (const file of files) for (const row of await linesOf(file, captions)) rows.push(row);
  return mapFiles(rows, async (row) =>
    row.image === '' ? row : { ...row, ...(await fileDigest(resolve(root, row.image), digests)) },
  );
}
