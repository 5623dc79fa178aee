/** Result lines of a conformance run and their totals. */
import type { Outcome } from './compare.js';

export interface Line {
  readonly case: string;
  /** A tensor's name, with the pass in brackets where there are two; or the path of JSON values. */
  readonly tensor: string;
  readonly status: 'pass' | 'fail' | 'skip';
  readonly maxAbs?: number;
  readonly relative?: number | null;
  readonly tolerance?: string;
  readonly note?: string;
}

export interface Totals {
  readonly cases: number;
  /** Comparisons made: tensors, and entries of `json_checks`; a tensor compared in two passes counts twice. */
  readonly tensors: number;
  readonly failed: number;
  readonly skipped: number;
  /** Largest relative error of all comparisons; null when nothing was compared or a result was not a number. */
  readonly worst: number | null;
}

const printed = (x: number | null | undefined): string =>
  x == null ? '-' : Number.isFinite(x) ? x.toExponential(2) : 'inf';

export class Report {
  readonly lines: Line[] = [];
  private caseCount = 0;

  /** @param print receives every line as it is known */
  constructor(private readonly print: (text: string) => void = () => {}) {}

  /** Begins a case. */
  begin(): void {
    this.caseCount++;
  }

  add(line: Line): void {
    this.lines.push(line);
    const figures =
      line.maxAbs === undefined
        ? ''
        : `max_abs=${printed(line.maxAbs)} rel=${printed(line.relative)} tol=${line.tolerance}`;
    this.print(
      [line.status.toUpperCase(), line.case, line.tensor, figures, line.note ?? ''].filter(Boolean).join('  '),
    );
  }

  outcome(name: string, tensor: string, outcome: Outcome): void {
    const { pass, ...figures } = outcome;
    this.add({ case: name, tensor, status: pass ? 'pass' : 'fail', ...figures });
  }

  fail(name: string, tensor: string, note: string): void {
    this.add({ case: name, tensor, status: 'fail', note });
  }

  skip(name: string, tensor: string, note: string): void {
    this.add({ case: name, tensor, status: 'skip', note });
  }

  get failures(): readonly Line[] {
    return this.lines.filter((line) => line.status === 'fail');
  }

  totals(): Totals {
    const compared = this.lines.filter((line) => line.maxAbs !== undefined);
    const errors = compared.flatMap(({ relative, maxAbs }) =>
      Number.isFinite(maxAbs) ? (relative ?? []) : [Number.POSITIVE_INFINITY],
    );
    const worst = errors.length > 0 ? Math.max(...errors) : Number.NaN;
    return {
      cases: this.caseCount,
      tensors: compared.length,
      failed: this.failures.length,
      skipped: this.lines.filter((line) => line.status === 'skip').length,
      worst: Number.isFinite(worst) ? worst : null,
    };
  }
}
