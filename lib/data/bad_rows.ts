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

/** What a run's state keeps of bad rows: the rows of its sets, in the order of the sets, wherever these lie. */
export interface SavedBadRows extends Pick<BadRowsReport, 'first'> {
  readonly rows: readonly (readonly number[])[];
}

/** Counts each bad row once, however many stages and parts of a run meet it. */
export class BadRows {
  private readonly rows: ReadonlyMap<string, Set<number>>;
  private readonly first: string[];

  /**
   * @param sets paths of the datasets
   * @param saved what an earlier part of the run found in them
   */
  constructor(
    private readonly sets: readonly string[],
    { rows, first }: SavedBadRows = { rows: [], first: [] },
  ) {
    this.rows = new Map(sets.map((set, i) => [set, new Set(rows[i])]));
    this.first = [...first];
  }

  /** @param set path of the dataset that the rows belong to */
  add(set: string, bad: readonly BadRow[]): void {
    const known = this.rows.get(set)!;
    for (const fault of bad) {
      if (known.has(fault.row)) continue;
      known.add(fault.row);
      if (this.first.length < SHOWN) this.first.push(said(fault));
    }
  }

  report(): BadRowsReport {
    return { count: [...this.rows.values()].reduce((sum, { size }) => sum + size, 0), first: [...this.first] };
  }

  save(): SavedBadRows {
    return { rows: this.sets.map((set) => [...this.rows.get(set)!]), first: [...this.first] };
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
