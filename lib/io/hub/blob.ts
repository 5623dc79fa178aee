/** One file into the cache: resumed where it stopped, counted, and named only after its digest was found right. */
import { createHash, type Hash } from 'node:crypto';
import { type FileHandle, mkdir, open, rename, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { InfinityError } from '../../errors.js';
import { syncFolder, writeError } from '../output_file.js';
import type { ByteAnswer, HubClient } from './client.js';
import type { HubFile } from './listing.js';
import { downloadFailed, withRetries } from './retry.js';

/** An attempt that brings this much is progress: the failures before it are forgotten. */
const PROGRESS = 1 << 20;
const READ_BYTES = 1 << 19;
/** A second wrong digest is the server's doing. */
const MAX_MISMATCHES = 2;

function newDigest({ digestOf, bytes }: HubFile): Hash {
  // Git hashes content behind a header with its length.
  return digestOf === 'sha256' ? createHash('sha256') : createHash('sha1').update(`blob ${bytes}\0`);
}

/** The part of a file that has arrived, on disk and in a running digest. */
class PartialFile {
  private constructor(
    private readonly path: string,
    private readonly wanted: HubFile,
    private file: FileHandle,
    private hash: Hash,
    public bytes: number,
  ) {}

  static async open(path: string, wanted: HubFile): Promise<PartialFile> {
    const partial = new PartialFile(path, wanted, await open(path, 'a+'), newDigest(wanted), 0);
    try {
      const chunk = Buffer.allocUnsafe(READ_BYTES);
      for (let read = -1; read !== 0; ) {
        ({ bytesRead: read } = await partial.file.read(chunk, 0, READ_BYTES, partial.bytes));
        partial.hash.update(chunk.subarray(0, read));
        partial.bytes += read;
      }
      if (partial.bytes > wanted.bytes) await partial.restart();
      return partial;
    } catch (error) {
      await partial.file.close();
      throw error;
    }
  }

  async append(chunk: Uint8Array): Promise<void> {
    try {
      for (let at = 0; at < chunk.byteLength; ) at += (await this.file.write(chunk, at)).bytesWritten;
    } catch (error) {
      throw writeError(this.path, error);
    }
    this.hash.update(chunk);
    this.bytes += chunk.byteLength;
  }

  /** Begins again with a new file, so that whoever may still have the old one open changes nothing. */
  async restart(): Promise<void> {
    if (this.bytes === 0) return;
    try {
      await unlink(this.path);
      const file = await open(this.path, 'a+');
      await this.file.close();
      this.file = file;
    } catch (error) {
      throw writeError(this.path, error);
    }
    this.hash = newDigest(this.wanted);
    this.bytes = 0;
  }

  digest(): string {
    return this.hash.copy().digest('hex');
  }

  async sync(): Promise<void> {
    await this.file.sync();
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}

/** Refuses an answer that is not about the rest of this file, before any byte of it is taken. */
function checkAnswer(answer: ByteAnswer, from: number, file: HubFile, url: string): void {
  const { status, linked, range, length } = answer;
  const refuse = (what: string) => downloadFailed(`${url} ${what}.`, { again: true, url });
  if (linked.size !== undefined && linked.size !== file.bytes)
    throw refuse(`has ${linked.size} bytes, but the list says ${file.bytes}`);
  if (file.digestOf === 'sha256' && linked.etag !== undefined && linked.etag !== file.digest)
    throw refuse(`is ${linked.etag}, but the list says ${file.digest}`);
  if (status === 206 && (range?.from !== from || (range.size !== undefined && range.size !== file.bytes)))
    throw refuse(`sent another part of the file than was asked for`);
  const rest = status === 206 ? file.bytes - from : file.bytes;
  if (length !== undefined && length !== rest) throw refuse(`promises ${length} bytes instead of ${rest}`);
}

class BlobDownload {
  private etag: string | undefined;
  private mismatches = 0;
  private gained = 0;

  constructor(
    private readonly client: HubClient,
    private readonly url: string,
    private readonly file: HubFile,
    private readonly partial: PartialFile,
    private readonly onBytes: (bytes: number) => void,
  ) {}

  /** Until the digest is right. */
  async run(): Promise<void> {
    const { policy, signal } = this.client;
    await withRetries(
      () => this.attempt(),
      policy,
      signal,
      () => this.gained >= PROGRESS,
    );
  }

  private async attempt(): Promise<void> {
    const { client, url, file, partial, onBytes } = this;
    const from = partial.bytes;
    this.gained = 0;
    onBytes(from);
    if (from < file.bytes) {
      const begin = async (answer: ByteAnswer) => {
        checkAnswer(answer, from, file, url);
        if (answer.status === 200) await partial.restart();
        this.etag = answer.etag;
      };
      const take = async (chunk: Uint8Array) => {
        if (partial.bytes + chunk.byteLength > file.bytes) {
          await partial.restart();
          throw downloadFailed(`${url} sends more than ${file.bytes} bytes.`, { again: true, url });
        }
        await partial.append(chunk);
        this.gained += chunk.byteLength;
        onBytes(partial.bytes);
      };
      await client.bytes(url, { from, etag: this.etag }, begin, take).catch(async (error) => {
        // What is there is no beginning of what the server has.
        if (error instanceof InfinityError && error.fields.status === 416) await partial.restart();
        throw error;
      });
    }
    if (partial.bytes < file.bytes)
      throw downloadFailed(`${url} ended after ${partial.bytes} of ${file.bytes} bytes.`, { again: true, url });
    await this.verify();
  }

  private async verify(): Promise<void> {
    const found = this.partial.digest();
    if (found === this.file.digest) return;
    this.mismatches++;
    this.etag = undefined;
    this.gained = 0;
    await this.partial.restart();
    const { url, file } = this;
    throw downloadFailed(`The digest of ${url} is ${found} instead of ${file.digest}.`, {
      again: this.mismatches < MAX_MISMATCHES,
      url,
    });
  }
}

/**
 * Downloads a file to `path`. What arrives is kept in `<path>.pull.incomplete` when the download fails, and taken up by the
 * next call; the caller holds the lock of this digest.
 *
 * @param onBytes called with the bytes that are there, whenever that changes
 * @throws InfinityError DOWNLOAD_FAILED, ACCESS_DENIED, MODEL_NOT_FOUND, IO_ERROR, DISK_FULL; the signal's reason
 */
export async function downloadBlob(
  client: HubClient,
  url: string,
  file: HubFile,
  path: string,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const incomplete = `${path}.pull.incomplete`;
  try {
    await mkdir(dirname(path), { recursive: true });
    const partial = await PartialFile.open(incomplete, file);
    try {
      await new BlobDownload(client, url, file, partial, onBytes).run();
      await partial.sync();
    } finally {
      await partial.close();
    }
    await rename(incomplete, path);
    await syncFolder(dirname(path));
  } catch (error) {
    client.signal?.throwIfAborted();
    throw writeError(path, error);
  }
}
