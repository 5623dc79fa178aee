/** Long sequences of commands, cut into parts: the event loop is free between them. */
import { setImmediate } from 'node:timers/promises';
import type { CancelToken, Device } from './device.js';
import { InfinityError } from './errors.js';
import type { Program } from './program.js';
import { scope, unscoped } from './tensor.js';

/** Milliseconds of submitting after which other events have their turn. */
const TURN_MS = 1;

/** The commands of a request under its token. A scale of a picture is a few hundred of them; no other event runs during a part. */
export class Submission {
  private stopped = false;
  private turn = performance.now();
  private program: Program | undefined;

  constructor(
    private readonly device: Device,
    private readonly token: CancelToken,
  ) {}

  /** What `fn` returns, with all other tensors that it made dropped. @throws InfinityError ABORTED after `stop` */
  async part<T>(fn: () => T): Promise<T> {
    if (performance.now() - this.turn > TURN_MS) {
      await setImmediate();
      this.turn = performance.now();
    }
    if (this.stopped) throw new InfinityError('ABORTED', 'The request was given up.');
    const { program } = this;
    const submit = program ? () => program.record(fn) : fn;
    return this.device.withToken(this.token, () => unscoped(() => scope(submit)));
  }

  /** Parts that `fn` submits become a program instead of being run. */
  async into<T>(program: Program, fn: () => Promise<T>): Promise<T> {
    this.program = program;
    try {
      return await fn();
    } finally {
      this.program = undefined;
    }
  }

  /** Nothing more is submitted. */
  stop(): void {
    this.stopped = true;
    this.token.cancel();
  }
}
