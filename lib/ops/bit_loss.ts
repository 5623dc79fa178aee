/**
 * The bit head and its cross entropy. A bit's two logits matter only by their difference, so the head is folded to one row
 * a bit before the product: half the arithmetic, and no logits [M, 2D] exist. Source: Infinity, trainer.py (train_step).
 */
import { invalidArgument } from '../errors.js';
import { scope, sizeOf, type Tensor } from '../tensor.js';
import { checkShapes } from './check.js';
import { mul } from './elementwise.js';
import { Op } from './generated.js';
import { linear } from './linear.js';
import { differentiable } from './record.js';
import { like, run, shaped } from './run.js';

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

/**
 * Cross entropy of bits from the gaps between their logits.
 * @param gap logit of 1 minus logit of 0, [..., D], M tokens in all
 * @param bits labels u8 [..., D]
 * @param weight [n], one a token and repeated over the batch when n < M (n divides M); null: 1/M each. The loss is
 *   n/M * sum of weight * loss of the token, so that weights of one picture that sum to 1 give the mean over pictures
 */
export function bitLoss(gap: Tensor, bits: Tensor, weight: Tensor | null, options: BitLossOptions = {}): BitLoss {
  const { reduction = 'mean', labelSmoothing = 0 } = options;
  const d = gap.shape.at(-1) ?? 1;
  const tokens = gap.size / d;
  const labelled = bits.dtype === 'u8' && bits.size === gap.size && bits.shape.at(-1) === d;
  checkShapes('bit_loss', gap.rank >= 1 && labelled, 'gaps [..., D] and labels u8 [..., D]', gap, bits);
  const weighted = !weight || (weight.dtype === gap.dtype && weight.rank === 1 && tokens % weight.size === 0);
  checkShapes('bit_loss', weighted, `weights [n] where n divides ${tokens}`, weight);
  if (!(labelSmoothing >= 0 && labelSmoothing <= 1))
    invalidArgument('labelSmoothing', 'a number from 0 to 1', labelSmoothing);
  return scope(() => {
    const [loss, grad, perToken, correct] = run(
      Op.bitLoss,
      [gap, bits, weight],
      [shaped(gap, []), like(gap), shaped(gap, [tokens]), shaped(gap, [tokens])],
      [reduction === 'mean' ? 1 / d : 1, labelSmoothing],
    );
    differentiable('bit_loss', [gap], [loss!], [grad], ([g]) => [mul(grad!, g!)]);
    return { loss: loss!, perToken: perToken!, correct: correct! };
  });
}

/**
 * `bitLoss` of the head's output, without its logits.
 * @param x hidden states [..., C]
 * @param w head [2D, C]; rows 2j and 2j + 1 score the values 0 and 1 of bit j
 * @param b [2D], or null
 * @param bits labels u8 [..., D]
 * @param weight see `bitLoss`
 */
export function bitCrossEntropy(
  x: Tensor,
  w: Tensor,
  b: Tensor | null,
  bits: Tensor,
  weight: Tensor | null,
  options: BitLossOptions = {},
): BitLoss {
  checkShapes(
    'bit_cross_entropy',
    sizeOf(bits.shape.slice(0, -1)) === sizeOf(x.shape.slice(0, -1)),
    'labels for every row of x',
    x,
    bits,
  );
  return scope(() => bitLoss(linear(x, foldBitHead(w), b && foldBitHead(b)), bits, weight, options));
}
