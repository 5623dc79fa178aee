/**
 * The bit head with what follows it in one pass. Sources: Infinity, infinity/models/infinity.py (autoregressive_infer_cfg),
 * infinity/models/bsq_vae/multiscale_bsq.py (indices_to_codes).
 */
import type { Tensor } from '../tensor.js';
import { type BitSampleOptions, packedBytes, withChoice } from './bits.js';
import { checkShapes, isFloat } from './check.js';
import { Op } from './generated.js';
import { refuseGradient } from './record.js';
import { type OutputSpec, run, shaped, statistic } from './run.js';

/** What is wanted beside the bits. */
export interface BitHeadSampleOptions extends BitSampleOptions {
  /** Pictures; twice as many samples of x are conditional ones first, then as many unconditional ones. */
  readonly images: number;
  /** Codes +-1/sqrt(n), n being this number of bits of a latent position (D, or D/4 of patchified ones). */
  readonly codeBits?: number;
  /** The bits eight a byte too, see `packBits`. */
  readonly packed?: boolean;
  /** The probabilities of 0 too, see `bitSample`. */
  readonly probabilities?: boolean;
}

/** Drawn bits in the forms that were asked for. */
export interface DrawnBits {
  /** u8 [B, L, D] */
  readonly bits: Tensor;
  /** [B, L, D] in the type of x */
  readonly codes: Tensor | null;
  /** u8 [B, L, ceil(D / 8)] */
  readonly packed: Tensor | null;
  /** [B, L, D] */
  readonly prob0: Tensor | null;
}

/**
 * `bitSample` of a folded head's output: product, temperature, top-k, top-p and draw without logits in memory. Guidance acts on
 * x, which gives the same gaps with half of the product's arithmetic; a bit whose number lies within rounding of its
 * probability may differ from the one that `bitSample` chooses from logits.
 * @param x hidden states [B or 2B, L, C]
 * @param head folded, [D, C] (f32 or bf16 for x in f32); see `foldBitHead`
 * @param bias folded, [D], or null
 * @throws InfinityError INVALID_ARGUMENT, INVALID_SHAPE; NOT_DIFFERENTIABLE; NUMERICAL (from a read) when a gap is not a number
 */
export function bitHeadSample(x: Tensor, head: Tensor, bias: Tensor | null, options: BitHeadSampleOptions): DrawnBits {
  const op = 'bit_head_sample';
  const { images: B, codeBits = 0, packed = false, probabilities = false } = options;
  const [d = 0, inputs = 0] = head.shape;
  const kinds = head.dtype === x.dtype || (x.dtype === 'f32' && head.dtype === 'bf16');
  const samples = x.rank === 3 && (x.shape[0] === B || x.shape[0] === 2 * B) && x.shape[2] === inputs;
  const expected = `x [${B} or ${2 * B}, L, ${inputs}] and a head [${d}, ${inputs}]`;
  checkShapes(op, samples && kinds && isFloat(x) && head.rank === 2, expected, x, head);
  const biased =
    !bias || (bias.rank === 1 && bias.size === d && (bias.dtype === x.dtype || bias.dtype === statistic(x)));
  checkShapes(op, biased, `a bias [${d}]`, bias);
  const shape = [B, x.shape[1]!, d];
  refuseGradient(op, [x, head, bias]);
  const unless = (given: boolean, spec: OutputSpec): OutputSpec => (given ? spec : { dtype: 'u8', shape: [1] });
  const outputs: OutputSpec[] = [
    { dtype: 'u8', shape },
    unless(probabilities, { dtype: statistic(x), shape }),
    unless(packed, { dtype: 'u8', shape: [B, shape[1]!, packedBytes(d)] }),
    unless(codeBits > 0, shaped(x, shape)),
  ];
  const greedy = Number(options.topK === 1);
  const [bits, prob0, bytes, codes] = withChoice(op, options, { bits: shape, device: x.device }, (operands, counter) =>
    run(Op.bitHeadSample, [x, head, bias, ...operands], outputs, [greedy, ...counter, codeBits]),
  );
  const kept = (given: boolean, y: Tensor): Tensor | null => {
    if (!given) y.dispose();
    return given ? y : null;
  };
  return {
    bits: bits!,
    codes: kept(codeBits > 0, codes!),
    packed: kept(packed, bytes!),
    prob0: kept(probabilities, prob0!),
  };
}
