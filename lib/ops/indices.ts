/**
 * The conventional classifier: one logit for each of the 2^D codes of a token, for comparison with the bit head. Labels and
 * draws are bits; channel 0 is the most significant one of a code's number. Sources: Infinity, trainer.py (index labels),
 * infinity/models/infinity.py (sample_with_top_k_top_p_also_inplace_modifying_logits_).
 */
import { scope, type Tensor } from '../tensor.js';
import { type BitLoss, type BitLossOptions, checkLabels, checkTokenWeight, lossParams } from './bit_loss.js';
import { type BitSampleOptions, withChoice } from './bits.js';
import { checkShapes, isFloat, sameShape } from './check.js';
import { Op } from './generated.js';
import { differentiable, refuseGradient } from './record.js';
import { like, run, statistic } from './run.js';

/** Bits of a token of these logits [..., 2^D], or undefined where their number is no power of two from 2 on. */
function bitsOf(logits: Tensor): number | undefined {
  const d = Math.log2(logits.shape.at(-1) ?? 1);
  return Number.isInteger(d) && d >= 1 ? d : undefined;
}

/**
 * Cross entropy of whole codes. With `reduction: 'mean'`, the default, it is divided by D, so that it is in nats a bit like that of
 * the bit head; with 'sum' it is the customary one, in nats a token.
 * @param logits [..., 2^D], M tokens in all; entry i scores the code whose bits are the digits of i
 * @param labels packed, u8 [..., ceil(D / 8)]; see `packBits`
 * @param weight see `bitLoss`
 * @returns the loss with its gradient, and metrics as `bitLoss` has them: `correct` counts the bits in which the likeliest code (of equal
 *   ones the first) agrees with the label
 */
export function indexLoss(
  logits: Tensor,
  labels: Tensor,
  weight: Tensor | null,
  options: BitLossOptions = {},
): BitLoss {
  const d = bitsOf(logits) ?? 0;
  const tokens = logits.size / (logits.shape.at(-1) ?? 1);
  checkShapes('index_loss', isFloat(logits) && d > 0, 'float logits [..., 2^D], D from 1', logits);
  checkLabels('index_loss', labels, tokens, d);
  checkTokenWeight('index_loss', weight, logits, tokens);
  const params = lossParams(options, d);
  const dtype = statistic(logits);
  const each = { dtype, shape: [tokens] } as const;
  return scope(() => {
    const outputs = [{ dtype, shape: [] }, each, each, each];
    const [loss, logSum, perToken, correct] = run(Op.indexLoss, [logits, labels, weight], outputs, params);
    differentiable('index_loss', [logits], [loss!], [logits, logSum, labels, weight], ([g]) =>
      run(Op.indexLossBackward, [g!, logits, logSum!, labels, weight], [like(logits)], params),
    );
    return { loss: loss!, perToken: perToken!, correct: correct! };
  });
}

/**
 * Chooses codes from their logits in the official order: guidance, temperature, the k likeliest, of these the likeliest that hold
 * topP of the probability (a code is dropped when it and all that are less likely hold at most 1 - topP; equal ones together),
 * one draw. One uniform number a token: `draws` are [B, L, 1], or Philox numbers of element t of the scale.
 * @param cond logits [B, L, 2^D] of the conditional branch
 * @param uncond the same of the unconditional branch, or null
 * @returns bits u8 [B, L, D] of the drawn codes, and the probabilities [B, L] that they were drawn with
 * @throws InfinityError INVALID_ARGUMENT, INVALID_SHAPE; NOT_DIFFERENTIABLE; NUMERICAL (from a read) when a logit is not a number
 */
export function indexSample(
  cond: Tensor,
  uncond: Tensor | null,
  options: BitSampleOptions = {},
): { bits: Tensor; probability: Tensor } {
  const d = bitsOf(cond) ?? 0;
  const matches = !uncond || (uncond.dtype === cond.dtype && sameShape(uncond.shape, cond.shape));
  const expected = 'logits [B, L, 2^D], D from 1, those of both branches alike,';
  checkShapes('index_sample', isFloat(cond) && cond.rank === 3 && d > 0 && matches, expected, cond, uncond);
  const [B = 1, L = 1] = cond.shape;
  refuseGradient('index_sample', [cond, uncond]);
  const outputs = [
    { dtype: 'u8', shape: [B, L, d] },
    { dtype: statistic(cond), shape: [B, L] },
  ] as const;
  const drawn = { bits: [B, L, 1], device: cond.device };
  const [bits, probability] = withChoice('index_sample', options, drawn, (operands, counter) =>
    run(Op.indexSample, [cond, uncond, ...operands], outputs, [options.topK ?? 0, ...counter]),
  );
  return { bits: bits!, probability: probability! };
}
