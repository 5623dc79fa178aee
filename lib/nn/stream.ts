/**
 * The residual stream: branches whose last product takes the sum with it, and leaves what the norm that reads the sum next needs, where
 * the products around that norm carry it out.
 */
import { add } from '../ops/elementwise.js';
import { gatedAdd } from '../ops/norm.js';
import { recordsGradient } from '../ops/record.js';
import type { Tensor } from '../tensor.js';
import type { FoldedNorm, LayerInput, Linear, MeasuredRows } from './linear.js';

/** A sub-layer up to its last product, which is left to whoever adds its result to the residual stream. */
export interface Branch {
  readonly last: Linear;
  readonly input: Tensor;
}

/**
 * x + branch · gate; the gate [B, 1, C] is optional. The sum is taken inside the branch's last product, unless somebody looks
 * at the branch or differentiates it.
 */
export function addBranch(
  x_BLC: Tensor,
  { last, input }: Branch,
  gate_B1C?: Tensor,
  look?: (y_BLC: Tensor) => void,
): Tensor {
  if (!look && !recordsGradient(x_BLC, gate_B1C)) return last.forward(input, { residual: x_BLC, gate: gate_B1C });
  const y_BLC = last.forward(input);
  look?.(y_BLC);
  return gate_B1C ? gatedAdd(x_BLC, y_BLC, gate_B1C) : add(x_BLC, y_BLC);
}

/** The sum so far, and what the product that made it left for one norm of it. */
export interface Stream {
  readonly x_BLC: Tensor;
  readonly ahead?: MeasuredRows | undefined;
}

/** How a branch is added to a stream: `next` is the norm that reads the sum, where products carry it out. */
export interface Addition {
  readonly gate: Tensor | undefined;
  readonly look: ((y_BLC: Tensor) => void) | undefined;
  readonly next: FoldedNorm | undefined;
}

/** `addBranch` on a stream. */
export function extend({ x_BLC }: Stream, branch: Branch, { gate, look, next }: Addition): Stream {
  if (!next || look || recordsGradient(x_BLC, gate)) return { x_BLC: addBranch(x_BLC, branch, gate, look) };
  const { sum, scaled, moments } = branch.last.measured(branch.input, { residual: x_BLC, gate }, next.affine_G2C);
  return { x_BLC: sum, ahead: { scaled, moments, norm: next } };
}

/** What layers behind a norm of the stream read: what was left for it, or else the norm itself, by `apply`. */
export function normalized(
  { x_BLC, ahead }: Stream,
  norm: FoldedNorm | undefined,
  apply: (x_BLC: Tensor) => Tensor,
): LayerInput {
  return ahead && ahead.norm === norm ? ahead : apply(x_BLC);
}

/** For who keeps a stream between scopes. */
export function disposeStream({ x_BLC, ahead }: Stream): void {
  for (const t of [x_BLC, ahead?.scaled, ahead?.moments]) t?.dispose();
}
