/** What every command shares: results on stdout, progress on stderr, one abort signal, exit codes. */
import type { SingleBar } from 'cli-progress';
import { InvalidArgumentError } from 'commander';
import { InfinityError, type InfinityErrorCode } from '../errors.js';

export const ExitCode = { ok: 0, failed: 1, usage: 2, interrupted: 130 } as const;

let interrupt: AbortSignal | undefined;

/** Aborts on the first Ctrl-C; a second one ends the process at once. */
export function interruptSignal(): AbortSignal {
  if (interrupt) return interrupt;
  const controller = new AbortController();
  process.once('SIGINT', () => {
    controller.abort(new InfinityError('ABORTED', 'Interrupted.'));
    process.once('SIGINT', () => process.exit(ExitCode.interrupted));
  });
  interrupt = controller.signal;
  return interrupt;
}

/** Results: one JSON line with --json, readable text otherwise. */
export function print(json: boolean, value: unknown, text: () => string): void {
  process.stdout.write(`${json ? JSON.stringify(value) : text()}\n`);
}

/** A bar on stderr when that is a terminal; silent otherwise, so that logs stay readable. */
export class ProgressBar {
  private constructor(private readonly bar: SingleBar | undefined) {}

  static async start(label: string, total: number): Promise<ProgressBar> {
    if (!process.stderr.isTTY) return new ProgressBar(undefined);
    const { default: progress } = await import('cli-progress');
    const bar = new progress.SingleBar({
      format: `${label} {bar} {value}/{total} {note}`,
      stream: process.stderr,
      hideCursor: true,
      clearOnComplete: true,
    });
    bar.start(total, 0, { note: '' });
    return new ProgressBar(bar);
  }
  update(value: number, note = ''): void {
    this.bar?.update(value, { note });
  }
  stop(): void {
    this.bar?.stop();
  }
}

/** Errors that the caller's arguments caused. */
const USAGE: readonly InfinityErrorCode[] = ['INVALID_ARGUMENT', 'UNSUPPORTED_SIZE', 'PROMPT_EMPTY', 'PROMPT_TOO_LONG'];

/** Prints an error as its reader needs it and returns the exit code. */
export function report(error: unknown): number {
  if (error instanceof InfinityError) {
    process.stderr.write(`node-infinity: ${error.message} [${error.code}]\n`);
    if (error.code === 'ABORTED') return ExitCode.interrupted;
    return USAGE.includes(error.code) ? ExitCode.usage : ExitCode.failed;
  }
  process.stderr.write(`node-infinity: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  return ExitCode.failed;
}

/** Parses a number option; commander turns the exception into a usage error. */
export function numberOption(name: string): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || Number.isNaN(value)) throw new InvalidArgumentError(`${name} takes a number.`);
    return value;
  };
}

/** "3" or "3,3,2,1": one number, or one for each scale. */
export function perScaleOption(name: string): (text: string) => number | number[] {
  const parse = numberOption(name);
  return (text) => (text.includes(',') ? text.split(',').map(parse) : parse(text));
}

/** The options that were given: none of them is `undefined`. */
export function given<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}
