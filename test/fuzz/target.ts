/** What a reader must tell to be fuzzed. */
import type { Random } from './random.js';

/** Checks an answer, where there is something to check. */
// biome-ignore lint/suspicious/noConfusingVoidType: a reader without a check returns nothing
export type Reading = (() => void) | void;

export interface FuzzTarget {
  readonly name: string;
  /** Valid files, made in code. */
  seeds(): Uint8Array[] | Promise<Uint8Array[]>;
  /**
   * Reads a file as its users do. Throws an InfinityError to refuse it; any other exception is a defect. What it returns checks the
   * answer as far as that is possible (what was read, written and read again is the same), outside the measurement.
   */
  read(file: Uint8Array): Reading | Promise<Reading>;
  /** Mutations that know the format; half of the files get one first. */
  mutate?(random: Random, file: Uint8Array): Uint8Array;
  /** Makes checksums and lengths right again, so that what lies behind them is reached; half of the files get it last. */
  repair?(file: Uint8Array): Uint8Array;
}
