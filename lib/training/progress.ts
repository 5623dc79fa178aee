/** Throughput and time left of a run, smoothed over the last steps. */

/** Measures a run from the moment it is made. */
export class Progress {
  private begin = performance.now();
  private step: { readonly seconds: number; readonly samples: number } | undefined;

  /** @param total steps of the run */
  constructor(private readonly total: number) {}

  /** Call once a step. @param samples that it used */
  tick(samples: number): void {
    const now = performance.now();
    const seconds = (now - this.begin) / 1000;
    this.begin = now;
    const smooth = (before: number, value: number): number => 0.95 * before + 0.05 * value;
    this.step = this.step
      ? { seconds: smooth(this.step.seconds, seconds), samples: smooth(this.step.samples, samples) }
      : { seconds, samples };
  }

  get samplesPerSecond(): number {
    return this.step?.seconds ? this.step.samples / this.step.seconds : 0;
  }

  secondsLeft(step: number): number {
    return (this.total - step) * (this.step?.seconds ?? 0);
  }
}
