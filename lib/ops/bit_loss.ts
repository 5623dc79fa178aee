/**
 * The bit head and its cross entropy. A bit's two logits matter only by their difference, so the head is folded to one row
 * a bit before the product: half the arithmetic, and no logits [M, 2D] exist. Source: Infinity, trainer.py (train_step).
 */
import { invalidArgument } from '../errors.js';
import { type Shape, scope, sizeOf, type Tensor } from '../tensor.js';
import { packedBytes } from './bits.js';
import { checkShapes } from './check.js';
import { mul } from './elementwise.js';
import { Op } from './generated.js';
import { linearGradients } from './linear.js';
import { differentiable } from './record.js';
import { like, type OutputSpec, run, shaped, statistic } from './run.js';
import { cast } from './shape.js';

/** Rows 2j + 1 minus rows 2j: the head [2D, C] or its bias [2D] as one row a bit, [D, C] or [D]. */
export function foldBitHead(w: Tensor): Tensor {
  checkShapes('fold_pairs', w.rank >= 1 && w.shape[0]! % 2 === 0, 'a head [2D, ...]', w);
  const [folded] = run(Op.foldPairs, [w], [shaped(w, [w.shape[0]! / 2, ...w.shape.slice(1)])]);
  differentiable('fold_pairs', [w], [folded!], [], ([g]) => run(Op.foldPairsBackward, [g!], [like(w)]));
  return folded!;
}

/** How the bits of a token are combined. */
export interface BitLossOptions {
  /** Over the D bits of a token: their mean (official default) or their sum. */
  readonly reduction?: 'mean' | 'sum';
  /** Share of the target that is spread evenly over both values. */
  readonly labelSmoothing?: number;
}

/** The loss with its gradient, and metrics without one. */
export interface BitLoss {
  /** [] */
  readonly loss: Tensor;
  /** Unweighted loss of each token, [M]; a metric without gradient. */
  readonly perToken: Tensor;
  /** Bits of each token on the right side, [M]; a metric without gradient. */
  readonly correct: Tensor;
}

export function lossParams(options: BitLossOptions, d: number): [bitFactor: number, smoothing: number] {
  const { reduction = 'mean', labelSmoothing = 0 } = options;
  if (!(labelSmoothing >= 0 && labelSmoothing <= 1))
    invalidArgument('labelSmoothing', 'a number from 0 to 1', labelSmoothing);
  return [reduction === 'mean' ? 1 / d : 1, labelSmoothing];
}

export function checkTokenWeight(op: string, weight: Tensor | null, x: Tensor, tokens: number): void {
  const fits = !weight || (weight.dtype === statistic(x) && weight.rank === 1 && tokens % weight.size === 0);
  checkShapes(op, fits, `weights [n] where n divides ${tokens}`, weight);
}

/** Labels of `tokens` tokens of d bits. @throws InfinityError INVALID_SHAPE */
export function checkLabels(op: string, packed: Tensor, tokens: number, d: number): void {
  const P = packedBytes(d);
  const fits = packed.dtype === 'u8' && packed.shape.at(-1) === P && packed.size === tokens * P;
  checkShapes(op, fits, `labels u8 [..., ${P}], ${tokens} tokens of ${d} bits packed by packBits,`, packed);
}

/** The gradient of the gaps for a cotangent of the loss. */
const scaled = (grad: Tensor, g: Tensor): Tensor => mul(grad, cast(g, grad.dtype));

/** What both losses write: the loss, the gradient of the gaps, and two metrics. */
function lossOutputs(x: Tensor, gapShape: Shape): OutputSpec[] {
  const tokens = sizeOf(gapShape) / gapShape.at(-1)!;
  const dtype = statistic(x);
  return [{ dtype, shape: [] }, shaped(x, gapShape), { dtype, shape: [tokens] }, { dtype, shape: [tokens] }];
}

/**
 * Cross entropy of bits from the gaps between their logits.
 * @param gap logit of 1 minus logit of 0, [..., D], M tokens in all
 * @param labels packed, u8 [..., ceil(D / 8)]; see `packBits`
 * @param weight [n], one a token and repeated over the batch when n < M (n divides M); null: 1/M each. The loss is
 *   n/M * sum of weight * loss of the token, so that weights of one picture that sum to 1 give the mean over pictures
 */
export function bitLoss(gap: Tensor, labels: Tensor, weight: Tensor | null, options: BitLossOptions = {}): BitLoss {
  const d = gap.shape.at(-1) ?? 1;
  checkShapes('bit_loss', gap.rank >= 1, 'gaps [..., D]', gap);
  checkLabels('bit_loss', labels, gap.size / d, d);
  checkTokenWeight('bit_loss', weight, gap, gap.size / d);
  const params = lossParams(options, d);
  return scope(() => {
    const [loss, grad, perToken, correct] = run(Op.bitLoss, [gap, labels, weight], lossOutputs(gap, gap.shape), params);
    differentiable('bit_loss', [gap], [loss!], [grad], ([g]) => [scaled(grad!, g!)]);
    return { loss: loss!, perToken: perToken!, correct: correct! };
  });
}

/**
 * `bitLoss` of the head's output in one pass: neither logits nor gaps are kept, the gradient of the gaps takes their place.
 * @param x hidden states [..., C]
 * @param w head [2D, C], f32 beside bf16 if need be; rows 2j and 2j + 1 score the values 0 and 1 of bit j
 * @param b [2D], or null
 * @param labels see `bitLoss`
 * @param weight see `bitLoss`
 */
export function bitCrossEntropy(
  x: Tensor,
  w: Tensor,
  b: Tensor | null,
  labels: Tensor,
  weight: Tensor | null,
  options: BitLossOptions = {},
): BitLoss {
  const op = 'bit_head_loss';
  const [d, inputs] = [(w.shape[0] ?? 0) / 2, w.shape[1] ?? 0];
  const leading = x.shape.slice(0, -1);
  const tokens = sizeOf(leading);
  const goesWith = (t: Tensor): boolean => t.dtype === x.dtype || t.dtype === statistic(x);
  const headed = w.rank === 2 && goesWith(w) && x.rank >= 1 && x.shape.at(-1) === inputs;
  checkShapes(op, headed, `x [..., ${inputs}] and a head [${2 * d}, ${inputs}]`, x, w);
  checkShapes(op, !b || (b.rank === 1 && b.size === 2 * d && goesWith(b)), `a bias [${2 * d}]`, b);
  checkLabels(op, labels, tokens, d);
  checkTokenWeight(op, weight, x, tokens);
  const params = lossParams(options, d);
  return scope(() => {
    // Differences of f32 weights are rounded once, after they are taken.
    const [head, bias] = [cast(foldBitHead(w), x.dtype), b && foldBitHead(b)];
    const outputs = lossOutputs(x, [...leading, d]);
    const [loss, grad, perToken, correct] = run(Op.bitHeadLoss, [x, head, bias, labels, weight], outputs, params);
    differentiable(op, [x, head, bias], [loss!], [grad, x, head], ([g], need) =>
      linearGradients(scaled(grad!, g!), x, head, need),
    );
    return { loss: loss!, perToken: perToken!, correct: correct! };
  });
}
