/**
 * Digests of what files hold. Reading a large set takes minutes, so they are kept between runs in a cache, each with the size and the
 * times of its file: a file that was written since is read again.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import type { BlobCache } from '../io/blob_cache.js';

/** What is known of one file. */
interface Known {
  readonly stamp: string;
  readonly sha256: string;
}

const PIECE = 1 << 18;
/** A file that was written so recently may be written again within the resolution of its times. */
const SETTLED_MS = 2000;

async function hashFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of createReadStream(path, { highWaterMark: PIECE })) hash.update(piece as Buffer);
  return hash.digest('hex');
}

async function stampOf(path: string): Promise<{ readonly stamp: string; readonly changed: number }> {
  const { size, mtimeNs, ctimeNs, ctimeMs } = await stat(path, { bigint: true });
  // The second time cannot be set back by whoever writes a file.
  return { stamp: `${size} ${mtimeNs} ${ctimeNs}`, changed: Number(ctimeMs) };
}

/** Digests of the files of one set. */
export class SetDigests {
  private readonly known = new Map<string, Known>();
  private fresh = 0;

  private constructor(
    private readonly key: string,
    private readonly cache: BlobCache | undefined,
  ) {}

  /** @internal */
  static async open(name: string, cache?: BlobCache): Promise<SetDigests> {
    const digests = new SetDigests(`file digests 1\n${name}`, cache);
    const { bytes } = (await cache?.read(digests.key)) ?? {};
    if (bytes) digests.parse(Buffer.from(bytes.buffer));
    return digests;
  }

  /** One file a line, since a large set does not fit into one string. */
  private parse(lines: Buffer): void {
    for (let begin = 0; begin < lines.length; ) {
      const end = lines.indexOf('\n', begin);
      const [path, stamp, sha256] = JSON.parse(lines.toString('utf8', begin, end)) as [string, string, string];
      this.known.set(path, { stamp, sha256 });
      begin = end + 1;
    }
  }

  /**
   * SHA-256 of a file's content, in hexadecimal digits.
   * @param path absolute
   * @throws Error of the file system
   */
  async of(path: string): Promise<string> {
    const before = await stampOf(path);
    const known = this.known.get(path);
    if (known?.stamp === before.stamp) return known.sha256;
    const sha256 = await hashFile(path);
    const { stamp, changed } = await stampOf(path);
    if (stamp === before.stamp && Date.now() - changed > SETTLED_MS) {
      this.known.set(path, { stamp, sha256 });
      this.fresh++;
    }
    return sha256;
  }

  /** Keeps what was learned. */
  async save(): Promise<void> {
    if (!this.cache || this.fresh === 0) return;
    const lines = [...this.known].map(([path, { stamp, sha256 }]) =>
      Buffer.from(`${JSON.stringify([path, stamp, sha256])}\n`),
    );
    await this.cache.write(this.key, Buffer.concat(lines));
    this.fresh = 0;
  }
}

/** Digests of the files of one training, which may have several sets. */
export class FileDigests {
  private readonly sets = new Map<string, Promise<SetDigests>>();

  /** @param cache where they are kept; without one every file is read once in the life of this object */
  constructor(private readonly cache?: BlobCache) {}

  /** @param name of a set, such as its absolute path */
  of(name: string): Promise<SetDigests> {
    const set = this.sets.get(name) ?? SetDigests.open(name, this.cache);
    this.sets.set(name, set);
    return set;
  }
}
