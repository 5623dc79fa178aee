/** `model_index.json`: what a checkpoint folder holds, with size and digest of every file. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, InfinityError } from '../errors.js';
import { parseJson } from './json.js';

export const INDEX_FILE = 'model_index.json';
const FORMAT = 'node-infinity';
export const FORMAT_VERSION = 1;

export interface FileRecord {
  readonly bytes: number;
  readonly sha256: string;
}

export interface ModelIndex {
  readonly format: typeof FORMAT;
  readonly format_version: number;
  readonly components: readonly string[];
  /** Path inside the folder -> size and digest. */
  readonly files: Readonly<Record<string, FileRecord>>;
}

export function makeIndex(components: readonly string[], files: Readonly<Record<string, FileRecord>>): ModelIndex {
  return { format: FORMAT, format_version: FORMAT_VERSION, components, files };
}

export function invalidCheckpoint(
  path: string,
  what: string,
  cure = 'Download or write the checkpoint again.',
): InfinityError {
  return new InfinityError('CHECKPOINT_INVALID', `${path} ${what}.`, { value: path, cure });
}

/** Reads a JSON object of a checkpoint. @throws InfinityError CHECKPOINT_INVALID naming the file */
export async function readJsonObject(path: string): Promise<Readonly<Record<string, unknown>>> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    throw invalidCheckpoint(path, `cannot be read (${(cause as NodeJS.ErrnoException).code})`);
  }
  return parseJsonObject(text, path);
}

/** A JSON object out of the text of a file. @throws InfinityError CHECKPOINT_INVALID naming the file */
export function parseJsonObject(text: string, path: string): Readonly<Record<string, unknown>> {
  const value = parseJson(text, (what) => invalidCheckpoint(path, what));
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw invalidCheckpoint(path, 'is no JSON object');
  return value as Readonly<Record<string, unknown>>;
}

/** Relative, with forward slashes, and nothing that leaves the folder. */
function isInside(name: string): boolean {
  return /^[\w.-]+(\/[\w.-]+)*$/.test(name) && !name.split('/').some((part) => /^\.+$/.test(part));
}

function isRecord(value: unknown): value is FileRecord {
  const { bytes, sha256 } = (value ?? {}) as Partial<Record<keyof FileRecord, unknown>>;
  return (
    Number.isSafeInteger(bytes) && Number(bytes) >= 0 && typeof sha256 === 'string' && /^[0-9a-f]{64}$/.test(sha256)
  );
}

async function missingModel(directory: string, path: string): Promise<InfinityError> {
  const previous = await stat(`${directory}.previous`).catch(() => undefined);
  const cure = previous
    ? `A write was interrupted: rename ${directory}.previous to ${directory}.`
    : `Pass a folder that holds ${INDEX_FILE}.`;
  return new InfinityError('MODEL_NOT_FOUND', `There is no checkpoint at ${directory} (no ${path}).`, {
    value: directory,
    cure,
  });
}

/**
 * Reads and checks the index of a checkpoint folder.
 *
 * @throws InfinityError MODEL_NOT_FOUND when the folder or its index is absent, CHECKPOINT_INVALID when it is foreign,
 *   newer than this package, or malformed
 */
export async function readIndex(directory: string): Promise<ModelIndex> {
  const path = join(directory, INDEX_FILE);
  if (!(await stat(path).catch(() => undefined))) throw await missingModel(directory, path);
  return parseIndex(await readJsonObject(path), path);
}

/** Checks the parsed index of a checkpoint folder. @throws InfinityError CHECKPOINT_INVALID naming what is wrong */
export function parseIndex(index: Readonly<Record<string, unknown>>, path: string): ModelIndex {
  const { format, format_version: version, components, files } = index;
  if (format !== FORMAT) {
    throw invalidCheckpoint(
      path,
      `belongs to another program (format ${describe(format)})`,
      'Pass a checkpoint that this package wrote.',
    );
  }
  if (version !== FORMAT_VERSION) {
    throw invalidCheckpoint(
      path,
      `has format version ${describe(version)}, this package reads ${FORMAT_VERSION}`,
      'Update node-infinity.',
    );
  }
  if (!Array.isArray(components) || components.some((name) => typeof name !== 'string')) {
    throw invalidCheckpoint(path, 'has no valid list of components');
  }
  const entries = typeof files === 'object' && files !== null ? Object.entries(files) : [];
  const bad = entries.find(([name, record]) => !isInside(name) || !isRecord(record));
  if (entries.length === 0 || bad) throw invalidCheckpoint(path, `has no valid list of files (${describe(bad?.[0])})`);
  return makeIndex(components, Object.fromEntries(entries) as Record<string, FileRecord>);
}

async function digest(path: string, bytes: number): Promise<string> {
  const hash = createHash('sha256');
  // Pieces of this size keep the event loop free for less than a millisecond each; the whole piece is allocated at once.
  const highWaterMark = Math.min(1 << 19, Math.max(1, bytes));
  for await (const chunk of createReadStream(path, { highWaterMark })) hash.update(chunk);
  return hash.digest('hex');
}

/**
 * Compares every file with its record: size, and content unless `sizesOnly`.
 *
 * @throws InfinityError CHECKPOINT_INVALID naming the first file that is missing, truncated or altered
 */
export async function verifyFiles(directory: string, index: ModelIndex, sizesOnly: boolean): Promise<void> {
  for (const [name, { bytes, sha256 }] of Object.entries(index.files)) {
    const path = join(directory, name);
    const stats = await stat(path).catch(() => undefined);
    if (!stats?.isFile()) throw invalidCheckpoint(path, 'is missing');
    if (stats.size !== bytes) {
      throw invalidCheckpoint(
        path,
        `is ${stats.size < bytes ? 'truncated' : 'altered'}: ${stats.size} bytes instead of ${bytes}`,
      );
    }
    if (!sizesOnly && (await digest(path, bytes)) !== sha256)
      throw invalidCheckpoint(path, 'is altered: its SHA-256 is not the recorded one');
  }
}
