/**
 * Every error this package throws on purpose carries a stable `code`, the offending value and the cure,
 * so that a server can map it to a status and a person can act on it.
 */

export type InfinityErrorCode =
  | 'INVALID_ARGUMENT'
  | 'INVALID_SHAPE'
  | 'UNSUPPORTED_SIZE'
  | 'UNSUPPORTED_DTYPE'
  | 'PROMPT_EMPTY'
  | 'PROMPT_TOO_LONG'
  | 'MODEL_NOT_FOUND'
  | 'ACCESS_DENIED'
  | 'DOWNLOAD_FAILED'
  | 'CHECKPOINT_INVALID'
  | 'CHECKPOINT_CONFIG_MISMATCH'
  | 'UNSAFE_PICKLE'
  | 'IMAGE_INVALID'
  | 'BITS_INVALID'
  | 'NATIVE_BINARY_MISSING'
  | 'DEVICE_UNAVAILABLE'
  | 'OUT_OF_MEMORY'
  | 'NOT_DIFFERENTIABLE'
  | 'IO_ERROR'
  | 'DISK_FULL'
  | 'DISPOSED'
  | 'NUMERICAL'
  | 'ABORTED'
  | 'QUEUE_FULL'
  | 'INTERNAL';

/** What an error knows besides its code and message. */
export interface InfinityErrorDetails {
  /** What to do about it, as an instruction. */
  readonly cure?: string;
  /** The value that was refused. */
  readonly value?: unknown;
  /** Machine-readable extras: needed and free bytes, tensor names, sizes on offer. */
  readonly fields?: Readonly<Record<string, unknown>>;
  readonly cause?: unknown;
}

/** The one error class of the package. `message` reads "Expected X for Y but received Z." followed by the cure. */
export class InfinityError extends Error {
  override readonly name = 'InfinityError';
  readonly code: InfinityErrorCode;
  readonly value: unknown;
  readonly cure: string | undefined;
  readonly fields: Readonly<Record<string, unknown>>;

  constructor(code: InfinityErrorCode, message: string, details: InfinityErrorDetails = {}) {
    super(
      details.cure ? `${message} ${details.cure}` : message,
      details.cause === undefined ? undefined : { cause: details.cause },
    );
    this.code = code;
    this.value = details.value;
    this.cure = details.cure;
    this.fields = details.fields ?? {};
  }

  /** The message without the cure. */
  get statement(): string {
    return this.cure ? this.message.slice(0, -this.cure.length - 1) : this.message;
  }
}

export const isOutOfMemory = (error: unknown): boolean =>
  error instanceof InfinityError && error.code === 'OUT_OF_MEMORY';

/** Short, safe rendering of a refused value for a message. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 80 ? `${value.slice(0, 77)}...` : value);
  if (typeof value === 'number' || typeof value === 'bigint' || typeof value === 'boolean' || value == null)
    return String(value);
  if (Array.isArray(value)) return `[${value.slice(0, 8).map(describe).join(', ')}${value.length > 8 ? ', ...' : ''}]`;
  if (typeof value === 'function') return `function ${value.name || '(anonymous)'}`;
  return Object.prototype.toString.call(value).slice(8, -1);
}

/** Throws `INVALID_ARGUMENT` in the house's wording. */
export function invalidArgument(name: string, expected: string, value: unknown, cure?: string): never {
  throw new InfinityError('INVALID_ARGUMENT', `Expected ${expected} for ${name} but received ${describe(value)}.`, {
    value,
    cure,
  });
}
