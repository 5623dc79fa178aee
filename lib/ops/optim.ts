/** Updates of weights in place. No gradients; f32 or f64. */
import type { Tensor } from '../tensor.js';
import { Op } from './generated.js';
import { checkShapes, run, shaped } from './run.js';
import { cat, reshape } from './shape.js';

export interface AdamwOptions {
  readonly lr: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  /** Decoupled: weights shrink by lr · weightDecay before the step. */
  readonly weightDecay: number;
  /** Counted from 1: corrects the bias of the moments. */
  readonly step: number;
  /** A tensor [] that multiplies the gradient: the factor of `clipFactor`. */
  readonly gradScale: Tensor;
}

const sameSize = (a: Tensor, b: Tensor): boolean => a.size === b.size && a.dtype === b.dtype;

/** One AdamW step (torch.optim.AdamW) on `parameter` and its moments `m` and `v`, all in place. */
export function adamw_(parameter: Tensor, grad: Tensor, m: Tensor, v: Tensor, options: AdamwOptions): void {
  const { lr, beta1, beta2, eps, weightDecay, step, gradScale } = options;
  checkShapes(
    'adamw',
    [grad, m, v].every((t) => sameSize(t, parameter)),
    'four tensors of one size',
    parameter,
    grad,
  );
  checkShapes('adamw', gradScale.size === 1 && gradScale.dtype === grad.dtype, 'a scalar factor', gradScale);
  const params = [lr, beta1, beta2, eps, weightDecay, 1 - beta1 ** step, Math.sqrt(1 - beta2 ** step)];
  run(Op.adamw, [grad, gradScale], [parameter, m, v], params);
}

/** average = decay · average + (1 − decay) · parameter, in place. */
export function ema_(average: Tensor, parameter: Tensor, decay: number): void {
  checkShapes('ema', sameSize(average, parameter), 'two tensors of one size', average, parameter);
  run(Op.ema, [parameter], [average], [decay]);
}

/** The sum of squares of all elements, [...] -> []. */
export function sumSquares(x: Tensor): Tensor {
  return run(Op.sumSquares, [x], [shaped(x, [])])[0]!;
}

/**
 * The global norm of gradients given by their sums of squares, and the factor that brings it down to `maxNorm` (1 where it is
 * below), as torch.nn.utils.clip_grad_norm_.
 */
export function clipFactor(sums: readonly Tensor[], maxNorm: number): { norm: Tensor; factor: Tensor } {
  checkShapes('clip_factor', sums.length > 0, 'at least one sum of squares');
  const all = cat(
    sums.map((s) => reshape(s, [1])),
    0,
  );
  const [norm, factor] = run(Op.clipFactor, [all], [shaped(all, []), shaped(all, [])], [maxNorm]);
  return { norm: norm!, factor: factor! };
}
