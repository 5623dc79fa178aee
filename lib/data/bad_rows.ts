/** Rows that no sample can be made of: never fatal alone, never silent. */
import { InfinityError } from '../errors.js';

/** A row that was passed over, and why. */
export interface BadRow {
  /** Its number in the listing. */
  readonly row: number;
  readonly name: string;
  readonly reason: string;
}

/** What a run knows of bad rows. */
export interface BadRowsReport {
  /** Different rows, of those listed as bad and those found so far. */
  readonly count: number;
  /** The first few as "name: reason". */
  readonly first: readonly string[];
}

const SHOWN = 5;

const said = ({ name, reason }: BadRow): string => `${name}: ${reason}`;

/** Counts each bad row once, however many stages of a run meet it. */
export class BadRows {
  private readonly rows = new Set<string>();
  private readonly first: string[] = [];

  /** @param set path of the dataset that the rows belong to */
  add(set: string, bad: readonly BadRow[]): void {
    for (const fault of bad) {
      const key = `${fault.row} ${set}`;
      if (this.rows.has(key)) continue;
      this.rows.add(key);
      if (this.first.length < SHOWN) this.first.push(said(fault));
    }
  }

  report(): BadRowsReport {
    return { count: this.rows.size, first: [...this.first] };
  }
}

/** Throws for a set without a single row that can be drawn. */
export function allBad(path: string, bad: readonly BadRow[]): never {
  const first = bad.slice(0, SHOWN).map(said).join('; ');
  throw new InfinityError('INVALID_ARGUMENT', `All ${bad.length} rows of the dataset ${path} are bad: ${first}.`, {
    value: path,
    fields: { field: 'dataset.path', bad: bad.length },
    cure: 'Correct the pictures and captions there, or dataset.image_root; docs/training.md says what a row needs.',
  });
}
