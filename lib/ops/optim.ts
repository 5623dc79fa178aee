/** Parameter updates, in place and outside any tape, and the norm of gradients. */
import { invalidArgument } from '../errors.js';
import { scope, type Tensor } from '../tensor.js';
import { checkShapes, sameShape } from './check.js';
import { Op } from './generated.js';
import { refuseGradient } from './record.js';
import { run, shaped } from './run.js';
import { cat, reshape } from './shape.js';

/** Settings of one update. */
export interface AdamwOptions {
  readonly lr: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  /** Decoupled: the parameter shrinks by lr · weightDecay before the step. */
  readonly weightDecay: number;
  /** Which update this is, from 1: the moments' bias is corrected by it. */
  readonly step: number;
  /** [] multiplied into the gradient (clipping, averaging); none: 1. */
  readonly gradScale?: Tensor | null;
}

const alike = (a: Tensor, b: Tensor): boolean => a.dtype === b.dtype && sameShape(a.shape, b.shape);

/** One AdamW update of `param` and its moments `m` and `v`, as torch.optim.AdamW computes it. */
export function adamw_(param: Tensor, grad: Tensor, m: Tensor, v: Tensor, options: AdamwOptions): void {
  const { lr, beta1, beta2, eps, weightDecay, step, gradScale } = options;
  checkShapes(
    'adamw',
    [grad, m, v].every((t) => alike(t, param)),
    'four tensors of one shape',
    param,
    grad,
    m,
    v,
  );
  if (gradScale)
    checkShapes('adamw', gradScale.size === 1 && gradScale.dtype === param.dtype, 'a factor []', gradScale);
  if (!Number.isInteger(step) || step < 1) invalidArgument('step', 'an integer from 1', step);
  for (const [name, value] of Object.entries({ lr, eps, weightDecay }))
    if (!(value >= 0 && Number.isFinite(value))) invalidArgument(name, 'a number from 0', value);
  for (const [name, value] of Object.entries({ beta1, beta2 }))
    if (!(value >= 0 && value < 1)) invalidArgument(name, 'a number in [0, 1)', value);
  refuseGradient('adamw', [param, grad]);
  run(
    Op.adamw,
    [grad, gradScale],
    [param, m, v],
    [
      1 - lr * weightDecay,
      beta1,
      1 - beta1,
      beta2,
      1 - beta2,
      lr / (1 - beta1 ** step),
      Math.sqrt(1 - beta2 ** step),
      eps,
    ],
  );
}

/** shadow = decay · shadow + (1 - decay) · param, in place. */
export function ema_(shadow: Tensor, param: Tensor, decay: number): void {
  checkShapes('ema', alike(shadow, param), 'two tensors of one shape', shadow, param);
  if (!(decay >= 0 && decay <= 1)) invalidArgument('decay', 'a number in [0, 1]', decay);
  refuseGradient('ema', [shadow, param]);
  run(Op.ema, [param], [shadow], [decay, 1 - decay]);
}

/** Σ x² -> [], accumulated in double. */
export function sumSquares(x: Tensor): Tensor {
  refuseGradient('sum_squares', [x]);
  const [y] = run(Op.sumSquares, [x], [shaped(x, [])]);
  return y!;
}

/**
 * The norm of all gradients together, given by their sums of squares, and the factor min(1, maxNorm / (norm + 1e-6)) that
 * brings it down to `maxNorm`, as torch.nn.utils.clip_grad_norm_: the `gradScale` of every parameter. A NaN stays one in both.
 */
export function clipFactor(squares: readonly Tensor[], maxNorm: number): { norm: Tensor; factor: Tensor } {
  if (!(maxNorm > 0)) invalidArgument('maxNorm', 'a positive number', maxNorm);
  return scope(() => {
    const all = cat(
      squares.map((s) => reshape(s, [1])),
      0,
    );
    const [norm, factor] = run(Op.clipFactor, [all], [shaped(all, []), shaped(all, [])], [maxNorm]);
    return { norm: norm!, factor: factor! };
  });
}
