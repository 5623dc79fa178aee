/** How two arrays are compared, in float64, under the rule of a `checks` entry. */
import { type HostArray, maskedRows, sliced } from './array.js';

/** The fields that every entry of `checks` and `json_checks` may have. */
export interface Rule {
  readonly role: 'in' | 'out' | 'info';
  readonly exact?: boolean;
  readonly atol?: number;
  readonly rel_to_max?: number;
  readonly lr_frac?: number;
  readonly share?: number;
  readonly lr_cap?: number;
  readonly lr?: number;
  readonly steps?: number;
  readonly optional?: boolean;
  readonly needs?: string;
}

export interface TensorRule extends Rule {
  readonly match: string;
  readonly sample?: number;
  readonly rows?: { readonly axis: number; readonly count: number };
  readonly row_mask?: string;
}

export interface Outcome {
  readonly pass: boolean;
  readonly maxAbs: number;
  /** Largest error over the largest stored value; null where every stored value lies within the tolerance of 0. */
  readonly relative: number | null;
  /** As printed: "exact", or the allowed difference. */
  readonly tolerance: string;
  readonly note?: string;
}

/** Largest absolute difference and largest stored value. A NaN, on either side, is an infinite difference. */
class Difference {
  maxAbs = 0;
  maxStored = 0;
  count = 0;
  readonly beyond: number[];

  /** @param limits differences whose exceedances are counted in `beyond` */
  constructor(private readonly limits: readonly number[] = []) {
    this.beyond = limits.map(() => 0);
  }

  /** A stored value that is not compared, but belongs to the tensor whose largest value a limit refers to. */
  see(stored: number | bigint): void {
    const magnitude = Math.abs(Number(stored));
    if (magnitude > this.maxStored) this.maxStored = magnitude;
  }

  add(got: number | bigint, stored: number | bigint): void {
    const error = got === stored ? 0 : Math.abs(Number(got) - Number(stored)) || minimalError(got, stored);
    const finite = Number.isNaN(error) ? Number.POSITIVE_INFINITY : error;
    if (finite > this.maxAbs) this.maxAbs = finite;
    this.see(stored);
    this.count++;
    for (let i = 0; i < this.limits.length; i++) if (!(finite <= this.limits[i]!)) this.beyond[i]!++;
  }
}

/** 64-bit integers may differ although their float64 values do not. */
function minimalError(got: number | bigint, stored: number | bigint): number {
  if (typeof got === 'number' && typeof stored === 'number')
    return Number.isNaN(got) || Number.isNaN(stored) ? Number.NaN : 0;
  return Number.isInteger(Number(got)) && BigInt(got) === BigInt(stored) ? 0 : 1;
}

const printed = (x: number): string => Number(x.toPrecision(3)).toString();

function judge(rule: Rule, pairs: (difference: Difference) => void): Outcome {
  const { exact, atol, rel_to_max = 0, lr_frac, lr_cap, share = 1, lr, steps = 1 } = rule;
  if (lr_frac !== undefined && lr_cap !== undefined && lr !== undefined) {
    const limits = [lr_frac * lr, lr_cap * lr * steps] as const;
    const difference = new Difference(limits);
    pairs(difference);
    const [loose, wild] = difference.beyond as [number, number];
    const allowed = Math.ceil((1 - share) * difference.count);
    return outcome(
      difference,
      loose <= allowed && wild === 0,
      limits[1],
      `${printed(limits[0])}/${printed(limits[1])}`,
    );
  }
  const difference = new Difference();
  pairs(difference);
  if (exact) return outcome(difference, difference.maxAbs === 0, 0, 'exact');
  if (atol === undefined)
    return { pass: false, maxAbs: 0, relative: null, tolerance: 'none', note: 'the entry has no rule' };
  const limit = atol + rel_to_max * difference.maxStored;
  return outcome(difference, difference.maxAbs <= limit, limit, printed(limit));
}

function outcome(difference: Difference, pass: boolean, limit: number, tolerance: string): Outcome {
  const { maxAbs, maxStored } = difference;
  const relative = maxStored > limit ? maxAbs / maxStored : maxAbs === 0 ? 0 : null;
  return { pass, maxAbs, relative, tolerance };
}

/** Compares plain numbers, of which there may be many under one rule. */
export function compareNumbers(rule: Rule, got: readonly number[], stored: readonly number[]): Outcome {
  return judge(rule, (difference) => {
    for (const [i, value] of stored.entries()) difference.add(got[i]!, value);
  });
}

export function compareArrays(rule: TensorRule, got: HostArray, stored: HostArray, mask?: HostArray): Outcome {
  let [mine, theirs] = [got, stored];
  const failed = (note: string): Outcome => ({
    pass: false,
    maxAbs: Number.POSITIVE_INFINITY,
    relative: null,
    tolerance: '-',
    note,
  });
  try {
    if (rule.sample !== undefined) mine = sliced(mine, 0, rule.sample, rule.sample + 1);
    if (rule.rows) {
      const { axis, count } = rule.rows;
      [mine, theirs] = [sliced(mine, axis, 0, count), sliced(theirs, axis, 0, count)];
    }
    if (mask) [mine, theirs] = [maskedRows(mine, mask), maskedRows(theirs, mask)];
  } catch (error) {
    return failed((error as Error).message);
  }
  if (mine.shape.join() !== theirs.shape.join()) return failed(`shape [${mine.shape}] instead of [${theirs.shape}]`);
  return judge(rule, (difference) => {
    const [a, b] = [mine.data, theirs.data];
    for (let i = 0; i < b.length; i++) difference.add(a[i]!, b[i]!);
    if (theirs !== stored) for (const value of stored.data) difference.see(value);
  });
}
