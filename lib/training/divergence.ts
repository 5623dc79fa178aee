/**
 * When a training counts as diverged: its loss stays far above its running level for long. Single spikes and noise never do, because
 * every step of a long stretch has to be above the limit.
 */

/** What counts as diverged. */
export interface DivergenceConfig {
  /** The limit as a multiple of the running level; above 1. */
  readonly factor: number;
  /** How many steps in a row have to be above it; 0 never stops. */
  readonly steps: number;
}

export const DIVERGENCE: DivergenceConfig = { factor: 1.5, steps: 200 };

/** Steps that the running level remembers. */
const HORIZON = 100;
/** Steps before there is a level to speak of. */
const WARMUP = 20;
/** Of a noisy loss the limit lies at least so many mean deviations above the level. */
const DEVIATIONS = 6;

/** A stretch of steps above the limit. */
export interface HighStretch {
  /** Its first step. */
  readonly since: number;
  readonly level: number;
  readonly limit: number;
}

/**
 * Follows a loss. Level and mean deviation are exponential averages over a hundred steps below the limit; steps above it leave both as
 * they are, so that a diverging loss does not carry its own limit along.
 */
export class DivergenceWatch {
  private level = 0;
  private deviation = 0;
  private seen = 0;
  private count = 0;
  private phase: string | undefined;
  private current: HighStretch | undefined;

  constructor(private readonly config: DivergenceConfig = DIVERGENCE) {}

  /** The present stretch above the limit, however short. */
  get high(): HighStretch | undefined {
    return this.current;
  }

  /** True when the stretch is as long as the configuration allows. */
  get diverged(): boolean {
    return this.config.steps > 0 && this.count >= this.config.steps;
  }

  private restart(phase: string | undefined): void {
    [this.level, this.deviation, this.seen, this.count] = [0, 0, 0, 0];
    this.phase = phase;
    this.current = undefined;
  }

  /** @param phase part of the training, each of which has a level of its own */
  add(step: number, value: number, phase?: string): void {
    if (phase !== this.phase) this.restart(phase);
    const limit = this.level + Math.max((this.config.factor - 1) * Math.abs(this.level), DEVIATIONS * this.deviation);
    if (this.seen >= WARMUP && value > limit) {
      this.current ??= { since: step, level: this.level, limit };
      this.count++;
      return;
    }
    this.current = undefined;
    this.count = 0;
    this.seen++;
    // The plain mean at first, which an average that starts at zero is not.
    const share = Math.max(1 / this.seen, 1 / HORIZON);
    this.deviation += share * (Math.abs(value - this.level) - this.deviation) * (this.seen > 1 ? 1 : 0);
    this.level += share * (value - this.level);
  }
}
