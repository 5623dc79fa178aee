/** Bytes at known places, in a file or in memory: readers of formats ask for the pieces they need and no more. */
import { type FileHandle, open } from 'node:fs/promises';
import { InfinityError } from '../errors.js';
import { MAX_TRANSFER } from './output_file.js';

export interface ByteSource {
  /** Path, or what else to call it in messages. */
  readonly name: string;
  readonly size: number;
  /**
   * Exactly `length` bytes from `begin`; of a source in memory a view, of a file a copy.
   * @throws InfinityError CHECKPOINT_INVALID when the source ends before, IO_ERROR
   */
  read(begin: number, length: number): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** Files up to this size are read whole at once: hundreds of small reads cost more than one large one. */
const WHOLE_FILE = 1 << 25;

function unreadable(path: string, cause: unknown): InfinityError {
  const code = (cause as NodeJS.ErrnoException)?.code;
  const absent = code === 'ENOENT' || code === 'ENOTDIR';
  return new InfinityError(absent ? 'MODEL_NOT_FOUND' : 'IO_ERROR', `Cannot read ${path} (${code ?? String(cause)}).`, {
    value: path,
    cure: absent ? 'Check the path, or download the file.' : 'Check that it is a readable file.',
    cause,
  });
}

function endsEarly({ name, size }: { name: string; size: number }, begin: number, length: number): InfinityError {
  return new InfinityError(
    'CHECKPOINT_INVALID',
    `Expected ${length} bytes at ${begin} of ${name} but it has ${size} bytes.`,
    { value: name, cure: 'Download or write the file again.' },
  );
}

/** A regular file, open for reading. */
export class InputFile implements ByteSource {
  private whole: Promise<Uint8Array> | undefined;

  private constructor(
    readonly name: string,
    private readonly file: FileHandle,
    readonly size: number,
  ) {}

  /** @throws InfinityError MODEL_NOT_FOUND or IO_ERROR naming the file */
  static async open(path: string): Promise<InputFile> {
    const file = await open(path, 'r').catch((cause) => Promise.reject(unreadable(path, cause)));
    try {
      const stats = await file.stat();
      if (!stats.isFile()) throw unreadable(path, 'not a regular file');
      return new InputFile(path, file, stats.size);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  async read(begin: number, length: number): Promise<Uint8Array> {
    if (begin + length > this.size) throw endsEarly(this, begin, length);
    if (this.size > WHOLE_FILE) return this.transfer(begin, length);
    this.whole ??= this.transfer(0, this.size);
    // A copy starts where its elements can be viewed in their own type.
    return (await this.whole).slice(begin, begin + length);
  }

  private async transfer(begin: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; ) {
      const piece = Math.min(length - at, MAX_TRANSFER);
      const { bytesRead } = await this.file
        .read(bytes, at, piece, begin + at)
        .catch((cause) => Promise.reject(unreadable(this.name, cause)));
      // The file has become shorter since it was opened.
      if (bytesRead === 0) throw endsEarly({ name: this.name, size: begin + at }, begin, length);
      at += bytesRead;
    }
    return bytes;
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}

/** Opens a file, hands it to a reader, and closes it again when the reader refuses it. */
export async function openWith<T>(path: string, reader: (source: ByteSource) => Promise<T>): Promise<T> {
  const file = await InputFile.open(path);
  try {
    return await reader(file);
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** A source that is in memory already. */
export function bytesInMemory(bytes: Uint8Array, name: string): ByteSource {
  return {
    name,
    size: bytes.byteLength,
    read: async (begin, length) => {
      if (begin + length > bytes.byteLength) throw endsEarly({ name, size: bytes.byteLength }, begin, length);
      return bytes.subarray(begin, begin + length);
    },
    close: async () => {},
  };
}
