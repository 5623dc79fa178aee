/** How well the bits of a batch are predicted, over all scales and in each. Source: Infinity, trainer.py (train_step). */
import { type ScaleSchedule, scaleOffsets, tokenCount } from '../tokenizer/schedule.js';

/** Means over some tokens. */
export interface TokenMetrics {
  readonly loss: number;
  /** Share of bits that the likeliest choice has right. */
  readonly bitAccuracy: number;
  /** Share of tokens whose bits are all right. */
  readonly tokenAccuracy: number;
}

/** What a loss reports of each token, [B · L], in the order of the schedule. */
export interface MeasuredTokens {
  readonly perToken: ArrayLike<number>;
  readonly correct: ArrayLike<number>;
}

/**
 * Means over all tokens and over those of each scale.
 * @param bits of a token
 * @param whole right bits from which a token counts as right; the official metric takes those of one latent position
 */
export function scaleMetrics(
  { perToken, correct }: MeasuredTokens,
  schedule: ScaleSchedule,
  bits: number,
  whole = bits,
): { readonly all: TokenMetrics; readonly scales: readonly TokenMetrics[] } {
  const [tokens, offsets] = [tokenCount(schedule), scaleOffsets(schedule)];
  const over = (from: number, to: number): TokenMetrics => {
    const sum = { loss: 0, bits: 0, tokens: 0 };
    for (let picture = 0; picture < correct.length; picture += tokens)
      for (let t = picture + from; t < picture + to; t++) {
        sum.loss += perToken[t]!;
        sum.bits += correct[t]!;
        sum.tokens += Number(correct[t] === whole);
      }
    const count = (correct.length / tokens) * (to - from);
    return { loss: sum.loss / count, bitAccuracy: sum.bits / (count * bits), tokenAccuracy: sum.tokens / count };
  };
  return { all: over(0, tokens), scales: schedule.map((_, k) => over(offsets[k]!, offsets[k + 1]!)) };
}
