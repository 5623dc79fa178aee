/** A disk that fills up: writes to files of this thread fail with ENOSPC once a number of bytes was written. */
import { type FileHandle, open } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

interface Writer {
  write(this: FileHandle, bytes: Uint8Array, ...rest: unknown[]): Promise<{ bytesWritten: number }>;
}

/**
 * Runs `work` with `room` bytes left. What does not fit is written in part, as a file system does, and fails after that.
 */
export async function withRoom<T>(room: number, work: () => Promise<T>): Promise<T> {
  const file = await open(fileURLToPath(import.meta.url), 'r');
  const handles = Object.getPrototypeOf(file) as Writer;
  await file.close();
  const { write } = handles;
  let left = room;
  handles.write = function (bytes, ...rest) {
    // (bytes, position?) as in `write(bytes, offset, length, position)`; no caller of ours uses the other forms.
    const [offset, length, position] = rest as [number, number, number | undefined];
    if (left <= 0) {
      const error = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
      return Promise.reject(error);
    }
    const fits = Math.min(left, length);
    left -= fits;
    return write.call(this, bytes, offset, fits, position ?? null);
  };
  try {
    return await work();
  } finally {
    handles.write = write;
  }
}
