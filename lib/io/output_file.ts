/** Writing results: atomically into regular files, directly into anything else, to stdout under the name "-". */
import { randomBytes } from 'node:crypto';
import { type FileHandle, open, readdir, realpath, rename, rm, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { InfinityError } from '../errors.js';

/** The name that stands for standard output. */
export const STDOUT = '-';

/** Node refuses to move 2 GiB or more in one call. */
export const MAX_TRANSFER = 1 << 30;

const CURES: Readonly<Record<string, string>> = {
  ENOENT: 'Create its folder first.',
  ENOTDIR: 'A part of the path is a file; choose another path.',
  EACCES: 'Choose a path that you may write to.',
  EPERM: 'Choose a path that you may write to.',
  EROFS: 'The file system is read-only; choose another path.',
  EISDIR: 'It is a folder; give a file name in it.',
  ENAMETOOLONG: 'Choose a shorter name.',
  EPIPE: 'The reader of the pipe went away; run it again with a reader that stays.',
};

/** Turns a failed write into DISK_FULL or IO_ERROR with the path and a cure; passes an InfinityError on. */
export function writeError(path: string, cause: unknown): InfinityError {
  if (cause instanceof InfinityError) return cause;
  const code = (cause as NodeJS.ErrnoException)?.code ?? '';
  const where = path === STDOUT ? 'standard output' : path;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new InfinityError('DISK_FULL', `No space left to write ${where}.`, {
      value: path,
      cure: 'Free some space or choose another disk.',
      cause,
    });
  }
  const reason = code || (cause instanceof Error ? cause.message : String(cause));
  return new InfinityError('IO_ERROR', `Cannot write ${where} (${reason}).`, {
    value: path,
    cure: CURES[code] ?? 'Choose another path.',
    cause,
  });
}

/** The bytes of a file, piece by piece. */
export type Chunks = Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

/** Writes pieces one after the other, each whole. */
export async function writeAll(file: FileHandle, chunks: Chunks): Promise<void> {
  for await (const chunk of chunks) {
    for (let at = 0; at < chunk.byteLength; ) {
      const length = Math.min(chunk.byteLength - at, MAX_TRANSFER);
      at += (await file.write(chunk, at, length)).bytesWritten;
    }
  }
}

async function writeStdout(chunks: Chunks): Promise<void> {
  for await (const chunk of chunks) {
    await new Promise<void>((resolve, reject) => {
      process.stdout.once('error', reject);
      process.stdout.write(chunk, (error) => {
        process.stdout.off('error', reject);
        if (error) reject(error);
        else resolve();
      });
    });
  }
}

/** Makes a rename or a new name in a folder durable, where the system allows folders to be synced. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r').catch(() => undefined);
  await folder?.sync().catch(() => undefined);
  await folder?.close();
}

/** A name beside `path` that nothing else has, for what will take its name when it is whole. */
export function temporaryPath(path: string): string {
  return join(dirname(path), `.${basename(path).slice(0, 80)}.${randomBytes(6).toString('hex')}.tmp`);
}

/** Removes what writers that were killed left in a folder. It must have no other writer. */
export async function removeLeftovers(folder: string): Promise<void> {
  const names = await readdir(folder).catch(() => []);
  for (const name of names)
    if (/^\..*\.[0-9a-f]{12}\.tmp$/.test(name)) await rm(join(folder, name), { recursive: true, force: true });
}

async function writeRegular(path: string, chunks: Chunks, mode: number | undefined): Promise<void> {
  const temporary = temporaryPath(path);
  const file = await open(temporary, 'wx', mode);
  try {
    try {
      await writeAll(file, chunks);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await unlink(temporary).catch(() => undefined);
    throw error;
  }
  await syncFolder(dirname(path));
}

/**
 * Writes `chunks` one after the other. A regular or new file appears whole or not at all (temporary file beside it,
 * fsync, rename; a symbolic link keeps pointing to its target); a device or pipe is written directly; "-" is stdout.
 *
 * @throws InfinityError IO_ERROR or DISK_FULL with the path and the cure
 */
export async function writeOutput(path: string, chunks: Chunks): Promise<void> {
  try {
    if (path === STDOUT) return await writeStdout(chunks);
    const target = await realpath(path).catch(() => path);
    const existing = await stat(target).catch(() => undefined);
    if (!existing || existing.isFile()) return await writeRegular(target, chunks, existing?.mode);
    const file = await open(target, 'w');
    try {
      await writeAll(file, chunks);
    } finally {
      await file.close();
    }
  } catch (error) {
    throw writeError(path, error);
  }
}
