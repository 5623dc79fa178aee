/**
 * Classifier-free guidance, guided = cfg · conditional + (1 − cfg) · unconditional, on the logits or on hidden states: which
 * scales and blocks need the unconditional samples, and which do not. Source: Infinity, autoregressive_infer_cfg.
 */
import { invalidArgument } from '../errors.js';
import { add, scale } from '../ops/elementwise.js';
import { cat } from '../ops/shape.js';
import type { Tensor } from '../tensor.js';

/** One number for all scales, or at least one a scale. */
export type PerScale = number | readonly number[];

/** @throws InfinityError INVALID_ARGUMENT when the list is too short or an entry is out of range */
export function perScale(name: string, value: PerScale, scales: number, positive = false): number[] {
  const list = typeof value === 'number' ? new Array<number>(scales).fill(value) : value.slice(0, scales);
  if (list.length < scales) invalidArgument(name, `a number, or one for each of ${scales} scales`, value);
  for (const v of list)
    if (!Number.isFinite(v) || (positive && v <= 0))
      invalidArgument(name, positive ? 'positive numbers' : 'finite numbers', value);
  return list;
}

/** Where guidance acts, and how far unconditional samples have to run for it. */
export class Guidance {
  /** Scales up to this one run unconditional samples beside the conditional ones; −1 for none. */
  readonly lastGuidedScale: number;
  private readonly onLogits: boolean;
  private readonly mixAfter: ReadonlySet<number>;
  private readonly lastMix: number;

  /**
   * @param strengths cfg of every scale; 1 is no guidance
   * @param layers 0: logits; −n: the output of block depth − n; 1: accepted, without effect
   */
  constructor(
    readonly strengths: readonly number[],
    layers: readonly number[],
    depth: number,
  ) {
    for (const n of layers)
      if (!Number.isInteger(n) || n > 1 || n <= -depth)
        invalidArgument('the guidance layers', `integers from ${1 - depth} to 1`, layers);
    this.onLogits = layers.includes(0);
    this.mixAfter = new Set(layers.filter((n) => n < 0).map((n) => depth + n));
    this.lastMix = Math.max(-1, ...this.mixAfter);
    const acts = this.onLogits || this.mixAfter.size > 0;
    this.lastGuidedScale = acts ? strengths.findLastIndex((cfg) => cfg !== 1) : -1;
  }

  /** Whether strengths are part of the commands: those that mix hidden states have them as parameters. */
  get mixesHidden(): boolean {
    return this.mixAfter.size > 0;
  }

  /** Samples that enter a scale, of a batch of B. */
  rowsAt(k: number, B: number): number {
    return k <= this.lastGuidedScale ? 2 * B : B;
  }

  guidesLogits(k: number): boolean {
    return this.onLogits && this.strengths[k] !== 1;
  }

  /**
   * The hidden state after block `i`: mixed into both halves where guidance acts here. Beyond the last place where the halves
   * meet again, unconditional samples are left out.
   */
  afterBlock(x_RLC: Tensor, i: number, k: number, B: number): Tensor {
    if (x_RLC.shape[0] === B) return x_RLC;
    const done = !this.onLogits && i >= this.lastMix;
    const cfg = this.strengths[k]!;
    if (!this.mixAfter.has(i) || cfg === 1) return done ? conditional(x_RLC, B) : x_RLC;
    const mix = this.mix(x_RLC, k, B);
    return done ? mix : cat([mix, mix], 0);
  }

  /** Guided [B, ...] from both halves [2B, ...]. */
  mix(x_RLC: Tensor, k: number, B: number): Tensor {
    const cfg = this.strengths[k]!;
    return add(scale(conditional(x_RLC, B), cfg), scale(unconditional(x_RLC, B), 1 - cfg));
  }
}

/** The first half of [2B, ...], or all of [B, ...]: a view. */
export function conditional(x: Tensor, B: number): Tensor {
  return x.view([B, ...x.shape.slice(1)]);
}

/** The second half of [2B, ...]: a view. */
export function unconditional(x: Tensor, B: number): Tensor {
  return x.view([B, ...x.shape.slice(1)], x.size / 2);
}
