/** What an op tells the tape. Ops know this file, not the tape. */
import { InfinityError } from '../errors.js';
import type { Tensor } from '../tensor.js';

/**
 * Cotangents of the outputs (undefined where the loss does not depend on one) to gradients of the inputs (null where an
 * input has none); `needed[i]` is false where nobody asks for gradient i. Runs in a scope, with recording off.
 */
export type Vjp = (
  cotangents: readonly (Tensor | undefined)[],
  needed: readonly boolean[],
) => readonly (Tensor | null | undefined)[];

/** What a tape is to the ops. */
export interface Recorder {
  /** Does the gradient of this tensor matter? */
  tracks(tensor: Tensor): boolean;
  record(
    name: string,
    inputs: readonly (Tensor | null)[],
    outputs: readonly Tensor[],
    saved: readonly Tensor[],
    vjp: Vjp,
  ): void;
}

let active: Recorder | undefined;

/** The tape that is recording, or undefined. */
export function recorder(): Recorder | undefined {
  return active;
}

/** Runs `fn` with another tape recording, or with none. */
export function withRecorder<T>(next: Recorder | undefined, fn: () => T): T {
  const previous = active;
  active = next;
  try {
    return fn();
  } finally {
    active = previous;
  }
}

/**
 * Records `outputs = name(inputs)` if an input's gradient matters.
 * @param saved the tensors that `vjp` reads: the tape keeps them alive, nothing else
 */
export function differentiable(
  name: string,
  inputs: readonly (Tensor | null | undefined)[],
  outputs: readonly Tensor[],
  saved: readonly (Tensor | null | undefined)[],
  vjp: Vjp,
): void {
  if (!active) return;
  const given = inputs.map((t) => t ?? null);
  if (!given.some((t) => t && active?.tracks(t))) return;
  const kept = saved.filter((t): t is Tensor => t != null);
  const recording = active;
  recording.record(name, given, outputs, kept, (cotangents, needed) =>
    withRecorder(undefined, () => vjp(cotangents, needed)),
  );
}

/** True while a gradient through any of these tensors will be wanted: fused forms step back to their composed definition. */
export function recordsGradient(...tensors: readonly (Tensor | null | undefined)[]): boolean {
  return active !== undefined && tensors.some((t) => t != null && active?.tracks(t) === true);
}

/** @throws InfinityError NOT_DIFFERENTIABLE when a gradient through `name` would be required. */
export function refuseGradient(name: string, inputs: readonly (Tensor | null | undefined)[]): void {
  if (recordsGradient(...inputs))
    throw new InfinityError('NOT_DIFFERENTIABLE', `The op '${name}' has no gradient, and one was required.`, {
      value: name,
      cure: 'Use its composed, differentiable form, or run it outside the tape.',
    });
}
