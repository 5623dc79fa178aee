/** Learning rate and weight decay over iterations. Source: Infinity, infinity/utils/lr_control.py. */
import { invalidArgument } from '../errors.js';
import { roundHalfEven } from '../transformer/rope.js';

/** A schedule and the run it belongs to. */
export interface LrScheduleOptions {
  /** lin0, lin, lin00, lin<T> with T in (0, 1), cos or exp. */
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
  const turn = turnOf(schedule) ?? invalidArgument('schedule', LR_SCHEDULES, schedule);
  const mid = (1 + end + (1 - end) * (1 - turn)) / 2;
  return p < turn ? 1 + ((mid - 1) * p) / turn : end + ((mid - end) * (1 - p)) / (1 - turn);
}

/** The names of the schedules, for messages. */
export const LR_SCHEDULES = 'lin0, lin, lin00, lin<T> (T between 0 and 1), cos or exp';

/** Whether this is the name of a schedule. */
export function isLrSchedule(name: unknown): boolean {
  return typeof name === 'string' && (/^(lin0|lin|lin00|cos|exp)$/.test(name) || turnOf(name) !== undefined);
}

/** The T of lin<T>. */
function turnOf(name: string): number | undefined {
  const turn = Number(/^lin(0?\.\d+)$/.exec(name)?.[1]);
  return turn > 0 && turn < 1 ? turn : undefined;
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
