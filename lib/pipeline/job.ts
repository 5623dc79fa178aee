/** One request while it runs: whatever may stop it, and what must be released before the pipeline may go. */
import type { CancelToken, Device } from '../device.js';
import { scope, type Tensor, type TensorBytes } from '../tensor.js';

export class Job {
  /** Commands of the job that are not part of the sampler. */
  private readonly token: CancelToken;
  private readonly controller = new AbortController();
  private readonly stopped: Promise<never>;
  private readonly onAbort: () => void;
  private release: () => unknown = () => undefined;
  /** Resolves when everything is released. */
  readonly closed: Promise<void>;
  private resolveClosed: () => void = () => undefined;

  constructor(
    private readonly device: Device,
    private readonly outer: AbortSignal | undefined,
  ) {
    outer?.throwIfAborted();
    this.token = device.createToken();
    this.stopped = new Promise((_, reject) => {
      this.controller.signal.addEventListener('abort', () => reject(this.controller.signal.reason), { once: true });
    });
    // Nobody may be waiting at the moment it is stopped.
    this.stopped.catch(() => undefined);
    this.closed = new Promise((resolve) => {
      this.resolveClosed = resolve;
    });
    // Not AbortSignal.any: it keeps a listener on a signal that may outlive thousands of requests.
    this.onAbort = () => this.stop(outer?.reason);
    outer?.addEventListener('abort', this.onAbort, { once: true });
  }

  /** Aborts with the job. */
  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** What `close` runs, at the latest: releases whatever the job holds. */
  holds(release: () => unknown): void {
    this.release = release;
  }

  /** Submits the commands of `fn` in a scope, under the job's cancel token. Refused once the job is stopped. */
  submit<T>(fn: () => T): T {
    this.signal.throwIfAborted();
    return this.device.withToken(this.token, () => scope(fn));
  }

  /** Contents of a tensor, once what was submitted before has run. */
  read(tensor: Tensor): Promise<TensorBytes> {
    return this.device.withToken(this.token, () => tensor.read());
  }

  /** Waits for `work`, but rejects with the reason as soon as the job is stopped. */
  wait<T>(work: Promise<T>): Promise<T> {
    return Promise.race([this.stopped, work]);
  }

  /** Skips what has not run. Everybody who waits is told `reason` at once; what the job holds is released. */
  stop(reason: unknown): void {
    if (this.signal.aborted) return;
    this.token.cancel();
    this.controller.abort(reason);
    void this.close();
  }

  /** Releases everything. Harmless when repeated. */
  async close(): Promise<void> {
    this.outer?.removeEventListener('abort', this.onAbort);
    const release = this.release;
    this.release = () => undefined;
    try {
      await release();
    } catch {
      // What was released had already failed, and told so where it was awaited.
    }
    this.token.release();
    this.resolveClosed();
  }
}
