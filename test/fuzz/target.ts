/** What a reader must tell to be fuzzed. */
import type { Random } from './random.js';

export interface FuzzTarget {
  readonly name: string;
  /** Valid files, made in code. */
  seeds(): Uint8Array[] | Promise<Uint8Array[]>;
  /**
   * Reads a file as its users do, and checks the answer as far as it can be checked (what was read, written and read again
   * is the same). Throws an InfinityError to refuse the file; any other exception is a defect.
   */
  read(file: Uint8Array): void | Promise<void>;
  /** Mutations that know the format; half of the files get one first. */
  mutate?(random: Random, file: Uint8Array): Uint8Array;
  /** Makes checksums and lengths right again, so that what lies behind them is reached; half of the files get it last. */
  repair?(file: Uint8Array): Uint8Array;
}
