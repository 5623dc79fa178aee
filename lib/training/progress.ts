/** Throughput and time left of a run, smoothed over the last steps. */

/** Measures a run from the moment it is made. */
export class Progress {
  private begin = performance.now();
  private secondsPerStep: number | undefined;

  constructor(
    private readonly total: number,
    private readonly samplesPerStep: number,
  ) {}

  /** Call once a step. */
  tick(): void {
    const now = performance.now();
    const seconds = (now - this.begin) / 1000;
    this.begin = now;
    this.secondsPerStep = this.secondsPerStep === undefined ? seconds : 0.95 * this.secondsPerStep + 0.05 * seconds;
  }

  get samplesPerSecond(): number {
    return this.secondsPerStep ? this.samplesPerStep / this.secondsPerStep : 0;
  }

  secondsLeft(step: number): number {
    return (this.total - step) * (this.secondsPerStep ?? 0);
  }
}
