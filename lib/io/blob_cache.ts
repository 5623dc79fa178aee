/**
 * A folder of computed bytes under keys that say what they were computed from. Entries appear whole or not at all and carry a digest, so
 * that several processes may share a folder and none needs to be trusted: what is damaged is not there.
 */
import { createHash } from 'node:crypto';
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { InfinityError } from '../errors.js';
import { temporaryPath, writeAll, writeError } from './output_file.js';

const DIGEST_BYTES = 32;
/** Of an entry's file. Others in the folder are left alone. */
const ENTRY = /^[0-9a-f]{64}$/;
const LEFTOVER = /^\.[0-9a-f]{64}\.[0-9a-f]{12}\.tmp$/;
/** A writer that has not come to its end after this long was killed. */
const LEFTOVER_MS = 3600_000;
/** Looked at again whenever this share of the limit was written, and cut down to the rest. */
const SLACK = 1 / 16;

function digestOf(key: string, bytes: Uint8Array): Buffer {
  return createHash('sha256').update(`${key}\n`).update(bytes).digest();
}

/** What was looked up. */
export interface Lookup {
  readonly key: string;
  /** Of a memory block of its own. */
  readonly bytes?: Uint8Array;
  /** An entry was there, but it is not what was written. */
  readonly damaged?: boolean;
}

interface Entry {
  readonly path: string;
  readonly bytes: number;
  readonly written: number;
}

/** Entries of one folder. Reading needs nothing; a writer with a limit removes the oldest entries beyond it. */
export class BlobCache {
  private sinceLook = Number.POSITIVE_INFINITY;
  private failure: InfinityError | undefined;

  /** @param limit bytes of all entries together; none by default */
  constructor(
    readonly directory: string,
    private readonly limit?: number,
  ) {}

  /** Why entries are no longer written, once one could not be. */
  get writeFailure(): InfinityError | undefined {
    return this.failure;
  }

  private pathOf(key: string): string {
    const name = createHash('sha256').update(key).digest('hex');
    return join(this.directory, name.slice(0, 2), name);
  }

  async read(key: string): Promise<Lookup> {
    const file = await readFile(this.pathOf(key)).catch(() => undefined);
    if (!file) return { key };
    const bytes = Uint8Array.from(file.subarray(DIGEST_BYTES));
    return digestOf(key, bytes).equals(file.subarray(0, DIGEST_BYTES)) ? { key, bytes } : { key, damaged: true };
  }

  /**
   * Not made durable: what a crash of the machine tears is found by its digest. The first failure ends all writing, since a cache is not
   * worth a training.
   */
  async write(key: string, bytes: Uint8Array): Promise<void> {
    if (this.failure) return;
    const path = this.pathOf(key);
    const temporary = temporaryPath(path);
    try {
      await mkdir(dirname(path), { recursive: true });
      const file = await open(temporary, 'wx');
      try {
        await writeAll(file, [digestOf(key, bytes), bytes]);
      } finally {
        await file.close();
      }
      await rename(temporary, path);
      this.sinceLook += DIGEST_BYTES + bytes.byteLength;
      if (this.limit !== undefined && this.sinceLook > this.limit * SLACK) await this.shrink(this.limit * (1 - SLACK));
    } catch (error) {
      await rm(temporary, { force: true }).catch(() => undefined);
      this.failure = writeError(path, error);
    }
  }

  /** Removes the oldest entries until the others take at most `room` bytes. Other processes may do the same. */
  private async shrink(room: number): Promise<void> {
    const entries = await this.entries();
    let total = entries.reduce((sum, { bytes }) => sum + bytes, 0);
    for (const { path, bytes } of entries.sort((a, b) => a.written - b.written)) {
      if (total <= room) break;
      await rm(path, { force: true });
      total -= bytes;
    }
    this.sinceLook = 0;
  }

  private async entries(): Promise<Entry[]> {
    const entries: Entry[] = [];
    const folders = await readdir(this.directory);
    for (const folder of folders.filter((name) => /^[0-9a-f]{2}$/.test(name))) {
      for (const name of await readdir(join(this.directory, folder)).catch(() => [])) {
        const path = join(this.directory, folder, name);
        const found = await stat(path).catch(() => undefined);
        if (found && ENTRY.test(name)) entries.push({ path, bytes: found.size, written: found.mtimeMs });
        else if (found && LEFTOVER.test(name) && Date.now() - found.mtimeMs > LEFTOVER_MS)
          await rm(path, { force: true });
      }
    }
    return entries;
  }
}
