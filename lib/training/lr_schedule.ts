/**
 * Learning rate and weight decay over iterations. Sources: Infinity, infinity/utils/lr_control.py; BitVAE, whose tokenizers
 * train with step<T>, a constant rate that drops once (its lr_drop and lr_drop_rate).
 */
import { invalidArgument } from '../errors.js';
import { roundHalfEven } from '../transformer/rope.js';

/** A schedule and the run it belongs to. */
export interface LrScheduleOptions {
  /** lin0, lin, lin00, lin<T> with T in (0, 1), cos, exp, or step<T>. */
  readonly schedule: string;
  /** A fraction (of an epoch) is rounded to the nearest iteration, halves to even. */
  readonly warmupIterations: number;
  readonly maxIterations: number;
  /** Multiplier at iteration 0. */
  readonly startFactor: number;
  /** Multiplier at the last iteration. */
  readonly endFactor: number;
}

/** Fraction of the run at which a schedule begins to fall. */
const PLATEAU = { lin0: 0.05, lin: 0.15, exp: 0.15 } as const;

function afterWarmup(schedule: string, p: number, end: number): number {
  const linear = (plateau: number): number => (p < plateau ? 1 : end + ((1 - end) * (1 - p)) / (1 - plateau));
  switch (schedule) {
    case 'lin0':
      return linear(PLATEAU.lin0);
    case 'lin':
      return linear(PLATEAU.lin);
    case 'lin00':
      return end + (1 - end) * (1 - p);
    case 'cos':
      return end + (1 - end) * (0.5 + 0.5 * Math.cos(Math.PI * p));
    case 'exp':
      return p < PLATEAU.exp ? 1 : end ** ((p - PLATEAU.exp) / (1 - PLATEAU.exp));
  }
  const drop = shareOf('step', schedule);
  if (drop !== undefined) return p < drop ? 1 : end;
  const turn = shareOf('lin', schedule) ?? invalidArgument('schedule', LR_SCHEDULES, schedule);
  const mid = (1 + end + (1 - end) * (1 - turn)) / 2;
  return p < turn ? 1 + ((mid - 1) * p) / turn : end + ((mid - end) * (1 - p)) / (1 - turn);
}

/** The names of the schedules, for messages. */
export const LR_SCHEDULES = 'lin0, lin, lin00, lin<T> (T between 0 and 1), cos, exp or step<T>';

/** Whether this is the name of a schedule. */
export function isLrSchedule(name: unknown): boolean {
  return (
    typeof name === 'string' &&
    (/^(lin0|lin|lin00|cos|exp)$/.test(name) || ['lin', 'step'].some((kind) => shareOf(kind, name) !== undefined))
  );
}

/** The T of lin<T> and step<T>. */
function shareOf(kind: string, name: string): number | undefined {
  const share = name.startsWith(kind) ? Number(/^0?\.\d+$/.exec(name.slice(kind.length))?.[0]) : 0;
  return share > 0 && share < 1 ? share : undefined;
}

/** Multiplier of the peak learning rate at `iteration`, counted from 0. */
export function lrFactor(iteration: number, options: LrScheduleOptions): number {
  const { schedule, maxIterations, startFactor, endFactor } = options;
  const warmup = roundHalfEven(options.warmupIterations);
  if (iteration < warmup) return startFactor + ((1 - startFactor) * iteration) / warmup;
  const rest = maxIterations - 1 - warmup;
  return afterWarmup(schedule, rest > 0 ? Math.min(1, (iteration - warmup) / rest) : 0, endFactor);
}

/** Weight decay moves from `start` to `end` on half a cosine. */
export function weightDecayAt(iteration: number, maxIterations: number, start: number, end: number): number {
  const p = maxIterations > 1 ? iteration / (maxIterations - 1) : 0;
  return end + (start - end) * (0.5 + 0.5 * Math.cos(Math.PI * p));
}
