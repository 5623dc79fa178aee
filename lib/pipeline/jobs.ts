/** All that runs on a pipeline: each call is a job of its own, and none outlives the pipeline. */
import type { Device } from '../device.js';
import { InfinityError } from '../errors.js';
import { Job } from './job.js';
import { checkSignal } from './options.js';

export class Jobs {
  private readonly running = new Set<Job>();
  private closed = false;

  constructor(private readonly device: Device) {}

  /** Runs a job with one result. @throws InfinityError DISPOSED; the signal's reason */
  async work<T>({ signal }: { readonly signal?: AbortSignal | undefined }, fn: (job: Job) => Promise<T>): Promise<T> {
    const job = this.open(signal);
    const result = (async () => fn(job))();
    job.holds(() => result);
    try {
      return await job.wait(result);
    } finally {
      void job.close();
    }
  }

  /** Runs a job that tells of itself as it goes on; leaving the loop stops it. @throws as `work` does */
  async *events<T>(
    signal: AbortSignal | undefined,
    fn: (job: Job) => AsyncGenerator<T, void, void>,
  ): AsyncGenerator<T, void, void> {
    const job = this.open(signal);
    const events = fn(job);
    job.holds(() => events.return());
    try {
      for (;;) {
        const { done, value } = await job.wait(events.next());
        if (done) return;
        yield value;
      }
    } finally {
      void job.close();
    }
  }

  private open(signal: AbortSignal | undefined): Job {
    checkSignal(signal);
    if (this.closed) throw disposed();
    const job = new Job(this.device, signal);
    this.running.add(job);
    void job.closed.then(() => this.running.delete(job));
    return job;
  }

  /** Stops all jobs, refuses new ones, and waits until everything is released. */
  async close(): Promise<void> {
    this.closed = true;
    const jobs = [...this.running];
    for (const job of jobs) job.stop(disposed());
    await Promise.all(jobs.map((job) => job.closed));
  }
}

function disposed(): InfinityError {
  return new InfinityError('DISPOSED', 'The pipeline was disposed.', {
    cure: 'Load it again with InfinityPipeline.fromPretrained().',
  });
}
