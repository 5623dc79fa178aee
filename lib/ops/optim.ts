/** Parameter updates, in place and outside any tape, and the norm of gradients: over lists of tensors, many a command. */
import { MAX_OPERANDS } from '../device.js';
import { invalidArgument } from '../errors.js';
import { scope, Tensor } from '../tensor.js';
import { checkShapes, sameShape } from './check.js';
import { Op } from './generated.js';
import { refuseGradient } from './record.js';
import { run, shaped } from './run.js';

/** A parameter with what an update reads and writes beside it, all of one type and shape. */
export interface AdamwTensors {
  readonly parameter: Tensor;
  /** null: parameter and moments stay as they are. */
  readonly gradient: Tensor | null;
  /** First moment. */
  readonly m: Tensor;
  /** Second moment. */
  readonly v: Tensor;
  /** Moving average of the parameter, of every tensor of a list or of none. */
  readonly average?: Tensor | undefined;
}

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
  /** Where there are averages: average = averageDecay · average + (1 - averageDecay) · parameter, of the updated one. */
  readonly averageDecay?: number | undefined;
}

const alike = (a: Tensor, b: Tensor): boolean => a.dtype === b.dtype && sameShape(a.shape, b.shape);

/** A list that a kernel takes: not empty, all f32 or all f64. */
function checkList(op: string, list: readonly Tensor[]): void {
  const [first] = list;
  if (!first) invalidArgument(`the tensors of ${op}`, 'at least one', list.length);
  const { dtype } = first;
  const one = (dtype === 'f32' || dtype === 'f64') && list.every((t) => t.dtype === dtype);
  checkShapes(op, one, 'a list of f32 or of f64', ...new Map(list.map((t) => [t.dtype, t])).values());
}

/** A list in parts that a command takes, with `operands` of each tensor and one beside them. */
function* parts<T>(list: readonly T[], operands: number): Generator<readonly T[]> {
  const most = Math.floor((MAX_OPERANDS - 1) / operands);
  for (let i = 0; i < list.length; i += most) yield list.slice(i, i + most);
}

/**
 * One AdamW update of every tensor of a list, as torch.optim.AdamW computes it, and of the moving averages in the same pass.
 * @throws InfinityError INVALID_SHAPE, INVALID_ARGUMENT
 */
export function adamw_(tensors: readonly AdamwTensors[], options: AdamwOptions): void {
  const { lr, beta1, beta2, eps, weightDecay, step, gradScale, averageDecay } = options;
  const parameters = tensors.map((t) => t.parameter);
  checkList('adamw', parameters);
  const different = new Set(parameters.map((t) => t.id)).size;
  if (different !== parameters.length) invalidArgument('the parameters of adamw', 'each once', parameters.length);
  for (const { parameter, gradient, m, v, average } of tensors) {
    const others = [gradient, m, v, average].filter((t) => t != null);
    const fit = others.every((t) => alike(t, parameter));
    checkShapes('adamw', fit, 'tensors of one shape', parameter, ...others);
    if ((average === undefined) !== (averageDecay === undefined))
      invalidArgument('averageDecay', 'a decay where every tensor has an average, else none', averageDecay);
    refuseGradient('adamw', [parameter, ...others]);
  }
  if (gradScale) {
    const fits = gradScale.size === 1 && gradScale.dtype === parameters[0]!.dtype;
    checkShapes('adamw', fits, 'a factor []', gradScale);
  }
  if (!Number.isInteger(step) || step < 1) invalidArgument('step', 'an integer from 1', step);
  for (const [name, value] of Object.entries({ lr, eps, weightDecay }))
    if (!(value >= 0 && Number.isFinite(value))) invalidArgument(name, 'a number from 0', value);
  for (const [name, value] of Object.entries({ beta1, beta2 }))
    if (!(value >= 0 && value < 1)) invalidArgument(name, 'a number in [0, 1)', value);
  const decay = averageDecay ?? 0;
  if (!(decay >= 0 && decay <= 1)) invalidArgument('averageDecay', 'a number in [0, 1]', decay);
  const settings = [
    1 - lr * weightDecay,
    beta1,
    1 - beta1,
    beta2,
    1 - beta2,
    lr / (1 - beta1 ** step),
    Math.sqrt(1 - beta2 ** step),
    eps,
    decay,
    1 - decay,
  ];
  for (const part of parts(tensors, 5)) {
    const averages = part.flatMap(({ average }) => average ?? []);
    run(
      Op.adamw,
      [gradScale, ...part.map((t) => t.gradient)],
      [...part.map((t) => t.parameter), ...part.map((t) => t.m), ...part.map((t) => t.v), ...averages],
      [part.length, averages.length > 0 ? 1 : 0, ...settings],
    );
  }
}

/**
 * Σ x² of every tensor of a list -> [n], each accumulated in double.
 * @throws InfinityError INVALID_SHAPE, INVALID_ARGUMENT (an empty list)
 */
export function sumSquares(tensors: readonly Tensor[]): Tensor {
  checkList('sum_squares', tensors);
  refuseGradient('sum_squares', tensors);
  const { dtype, device } = tensors[0]!;
  return scope(() => {
    const sums = Tensor.empty([tensors.length], dtype, device);
    let at = 0;
    for (const part of parts(tensors, 1)) {
      run(Op.sumSquares, part, [sums.view([part.length], at)], [part.length]);
      at += part.length;
    }
    return sums;
  });
}

/**
 * The norm of all gradients together, given by their sums of squares [n], and the factor min(1, maxNorm / (norm + 1e-6)) that
 * brings it down to `maxNorm`, as torch.nn.utils.clip_grad_norm_: the `gradScale` of every parameter. A NaN stays one in both.
 */
export function clipFactor(squares: Tensor, maxNorm: number): { norm: Tensor; factor: Tensor } {
  if (!(maxNorm > 0)) invalidArgument('maxNorm', 'a positive number', maxNorm);
  refuseGradient('clip_factor', [squares]);
  const [norm, factor] = run(Op.clipFactor, [squares], [shaped(squares, []), shaped(squares, [])], [maxNorm]);
  return { norm: norm!, factor: factor! };
}
