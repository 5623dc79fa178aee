/** Files that grow by whole records: one is there completely or not at all. */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { writeError } from './output_file.js';

const PIECE = 1 << 16;
const NEWLINE = 10;

/** A line of a text file, without its end. */
export interface WholeLine {
  readonly text: string;
  /** Bytes of the file up to and with the line's end. */
  readonly end: number;
}

/** The lines of a file that are ended; what a crash left behind the last one is not among them. Empty when there is no file. */
export async function* wholeLines(path: string): AsyncGenerator<WholeLine> {
  const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (!file) return;
  try {
    let rest = Buffer.alloc(0);
    let end = 0;
    const piece = Buffer.alloc(PIECE);
    for (;;) {
      const { bytesRead } = await file.read(piece, 0, PIECE, null);
      if (bytesRead === 0) return;
      const bytes = Buffer.concat([rest, piece.subarray(0, bytesRead)]);
      let begin = 0;
      for (let at = bytes.indexOf(NEWLINE); at >= 0; at = bytes.indexOf(NEWLINE, begin)) {
        end += at + 1 - begin;
        yield { text: bytes.toString('utf8', begin, at), end };
        begin = at + 1;
      }
      rest = Buffer.from(bytes.subarray(begin));
    }
  } finally {
    await file.close();
  }
}

/** A file that is only appended to. A record that cannot be written whole is taken back. */
export class AppendFile {
  private constructor(
    readonly path: string,
    private readonly file: FileHandle,
    private end: number,
  ) {}

  /**
   * Opens or creates a file and cuts it to its first `keep` bytes.
   * @throws InfinityError IO_ERROR, DISK_FULL
   */
  static async open(path: string, keep = 0): Promise<AppendFile> {
    try {
      const file = await open(path, constants.O_RDWR | constants.O_CREAT, 0o666);
      if ((await file.stat()).isFile()) await file.truncate(keep);
      return new AppendFile(path, file, keep);
    } catch (error) {
      throw writeError(path, error);
    }
  }

  /** @throws InfinityError IO_ERROR or DISK_FULL; the file then holds the records before */
  async append(record: Uint8Array): Promise<void> {
    try {
      for (let at = 0; at < record.byteLength; )
        at += (await this.file.write(record, at, record.byteLength - at, this.end + at)).bytesWritten;
    } catch (error) {
      await this.file.truncate(this.end).catch(() => undefined);
      throw writeError(this.path, error);
    }
    this.end += record.byteLength;
  }

  /** Makes what was appended durable. @throws InfinityError IO_ERROR, DISK_FULL */
  async sync(): Promise<void> {
    try {
      await this.file.sync();
    } catch (error) {
      // A pipe or a device has nothing to make durable.
      if ((error as NodeJS.ErrnoException).code !== 'EINVAL') throw writeError(this.path, error);
    }
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}
