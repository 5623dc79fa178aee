/** What may be tried again, when, and when silence becomes a failure. */
import { setTimeout as sleep } from 'node:timers/promises';
import { InfinityError } from '../../errors.js';

export interface RetryPolicy {
  /** Failures in a row, without progress between them, that are forgiven. */
  readonly retries: number;
  /** Pause after the first failure, in milliseconds; it doubles up to half a minute. */
  readonly backoff: number;
  /** Silence that ends an attempt, in milliseconds. */
  readonly stall: number;
}

/** A failure that `again` says may pass by itself. `retryAfter` in milliseconds is the server's own wish. */
export function downloadFailed(
  what: string,
  { again, cause, ...fields }: { again: boolean; cause?: unknown; status?: number; retryAfter?: number; url?: string },
): InfinityError {
  const cure = again ? 'Run it again later: what is complete is kept.' : 'Check the name, the revision and the server.';
  return new InfinityError('DOWNLOAD_FAILED', what, { cure, cause, value: fields.url, fields: { again, ...fields } });
}

const MAX_PAUSE = 30_000;

function pauseAfter(error: InfinityError, failures: number, { backoff }: RetryPolicy): number {
  const { retryAfter } = error.fields;
  if (typeof retryAfter === 'number') return Math.min(retryAfter, 2 * MAX_PAUSE);
  // Spread, so that many clients of a server that fell over do not come back together.
  return Math.min(backoff * 2 ** (failures - 1), MAX_PAUSE) * (0.75 + Math.random() / 2);
}

/**
 * Runs `attempt` until it succeeds. Failures marked `again` are forgiven, with growing pauses; `progressed` tells whether
 * the last attempt came so far that counting starts anew.
 */
export async function withRetries<T>(
  attempt: () => Promise<T>,
  policy: RetryPolicy,
  signal: AbortSignal | undefined,
  progressed: () => boolean = () => false,
): Promise<T> {
  for (let failures = 0; ; ) {
    signal?.throwIfAborted();
    try {
      return await attempt();
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof InfinityError) || error.fields.again !== true) throw error;
      failures = progressed() ? 1 : failures + 1;
      if (failures > policy.retries) throw error;
      await sleep(pauseAfter(error, failures, policy), undefined, { signal }).catch(() => signal?.throwIfAborted());
    }
  }
}

/** Aborts when nothing is heard for too long, or when the caller does. */
export class Watchdog {
  private readonly controller = new AbortController();
  private readonly timer: NodeJS.Timeout;
  readonly signal: AbortSignal;

  constructor(
    private readonly milliseconds: number,
    private readonly caller: AbortSignal | undefined,
  ) {
    this.timer = setTimeout(() => this.controller.abort(), milliseconds);
    this.signal = caller ? AbortSignal.any([caller, this.controller.signal]) : this.controller.signal;
  }

  /** Something arrived. */
  touch(): void {
    this.timer.refresh();
  }

  stop(): void {
    clearTimeout(this.timer);
  }

  /** The reason behind a failed request: the caller's, silence, or a broken connection. */
  explain(error: unknown, url: string): unknown {
    if (this.caller?.aborted) return this.caller.reason;
    if (error instanceof InfinityError) return error;
    if (this.controller.signal.aborted)
      return downloadFailed(`${url} sent nothing for ${this.milliseconds / 1000} s.`, { again: true, url });
    const { cause, message } = error as Error & { cause?: NodeJS.ErrnoException };
    const reason = cause?.code ?? cause?.message ?? message;
    return downloadFailed(`The connection to ${url} failed (${reason}).`, { again: true, cause: error, url });
  }
}
