/**
 * Sign quantisation with straight-through gradients: binary spherical (BSQ, unit vectors) and lookup-free (LFQ), and the
 * penalties that training adds. Channels last.
 * Sources: BitVAE, bitvae/modules/quantizer/multiscale_bsq.py (BSQ.forward, soft_entropy_loss); vector-quantize-pytorch,
 * lookup_free_quantization.py.
 */
import { invalidArgument } from '../errors.js';
import { scope, type Tensor } from '../tensor.js';
import { checkShapes } from './check.js';
import { scale } from './elementwise.js';
import { Op, type OpDefinition } from './generated.js';
import { differentiable } from './record.js';
import { like, run, statistic } from './run.js';

/** Bits of the joint codebook that LFQ's entropies go through: 2^16 entries. */
export const MAX_JOINT_BITS = 16;

/** x / max(|x|, 1e-12) over the last axis. */
export function l2Normalize(x: Tensor): Tensor {
  checkShapes('l2_normalize', x.rank >= 1, 'a tensor [..., d]', x);
  const [z] = run(Op.l2Normalize, [x], [like(x)]);
  differentiable('l2_normalize', [x], [z!], [x], ([gz]) => run(Op.l2NormalizeBackward, [gz!, x], [like(x)]));
  return z!;
}

/**
 * Codes magnitude * sign(z) and bits z > 0 (zeros and NaN give 0). The gradient of the codes passes straight through to
 * z, times `gradientScale`.
 */
export function signQuantize(z: Tensor, magnitude: number, gradientScale = 1): { codes: Tensor; bits: Tensor } {
  const [codes, bits] = run(Op.signQuantize, [z], [like(z), { dtype: 'u8', shape: z.shape }], [magnitude]);
  differentiable('sign_quantize', [z], [codes!], [], ([g]) => [gradientScale === 1 ? g! : scale(g!, gradientScale)]);
  return { codes: codes!, bits: bits! };
}

/** A quantised tensor in its three forms. */
export interface Quantized {
  /** What was quantised: the input, normalised where the quantiser does that. */
  readonly z: Tensor;
  /** Straight-through codes, like the input. */
  readonly codes: Tensor;
  /** u8, like the input. */
  readonly bits: Tensor;
}

/**
 * Binary spherical quantisation of x [..., d]: codes +-1/sqrt(d) of the unit vector z = x / |x|.
 * @param gradientScale of the straight-through gradient: 1 ("new_quant"), or 1/sqrt(d) as BitVAE had it before
 */
export function bsqQuantize(x: Tensor, gradientScale = 1): Quantized {
  const z = l2Normalize(x);
  return { z, ...signQuantize(z, 1 / Math.sqrt(x.shape.at(-1)!), gradientScale) };
}

/** LFQ's code elements, 1 by default; `spherical` gives inputs and codes the length `scale` instead. */
export interface LfqOptions {
  readonly scale?: number | undefined;
  readonly spherical?: boolean | undefined;
}

/** The size of a code element of d. */
export const lfqMagnitude = (d: number, { scale = 1, spherical = false }: LfqOptions): number =>
  spherical ? scale / Math.sqrt(d) : scale;

/** Lookup-free quantisation of x [..., d]: codes +-scale; `spherical` normalises input and codes to the length `scale`. */
export function lfqQuantize(x: Tensor, options: LfqOptions = {}): Quantized {
  const { scale: length = 1, spherical = false } = options;
  return scope(() => {
    const unit = spherical ? l2Normalize(x) : x;
    const z = spherical && length !== 1 ? scale(unit, length) : unit;
    return { z, ...signQuantize(z, lfqMagnitude(x.shape.at(-1)!, options)) };
  });
}

/** What training adds to a quantiser's loss, before any weights. */
export interface Penalties {
  /** Mean over tokens of the entropy of a token's own distribution over codes, nats, []: small when bits are decided. */
  readonly perSampleEntropy: Tensor;
  /** Entropy of the distribution averaged over tokens, nats, []: large when the codebook is used evenly. */
  readonly codebookEntropy: Tensor;
  /** Mean of (z - code)^2 with the code held constant, []. */
  readonly commitment: Tensor;
  /** The averaged distribution: [d, 2] (of -1, of +1), or [2^d] over the joint codebook. Without gradient. */
  readonly meanProbability: Tensor;
}

function penalties(
  op: OpDefinition,
  backward: OpDefinition,
  z: Tensor,
  meanShape: readonly number[],
  params: readonly number[],
): Penalties {
  const dtype = statistic(z);
  const scalar = { dtype, shape: [] };
  const [sample, codebook, commitment, mean] = run(
    op,
    [z],
    [scalar, scalar, scalar, { dtype, shape: meanShape }],
    params,
  );
  const outputs = [sample!, codebook!, commitment!];
  differentiable(op.name, [z], outputs, [z, mean], ([gs, gc, gm]) =>
    run(backward, [z, mean, gs, gc, gm], [like(z)], params),
  );
  return {
    perSampleEntropy: sample!,
    codebookEntropy: codebook!,
    commitment: commitment!,
    meanProbability: mean!,
  };
}

/**
 * Penalties of BSQ on unit vectors z [..., d]: every bit is a two-point distribution with logit 4 z T/sqrt(d), T the
 * inverse temperature, so the entropies are sums over the bits.
 */
export function bsqPenalties(z: Tensor, inverseTemperature = 100): Penalties {
  const d = z.shape.at(-1) ?? 0;
  checkShapes('bsq_penalties', z.rank >= 1, 'a tensor [..., d]', z);
  const params = [(4 * inverseTemperature) / Math.sqrt(d), 1 / Math.sqrt(d)];
  return penalties(Op.bitPenalties, Op.bitPenaltiesBackward, z, [d, 2], params);
}

/**
 * Penalties of LFQ on z [..., d]: one distribution over all 2^d codes, softmax(2 T <z, code>). Needs 2^d numbers a token.
 * @throws InfinityError INVALID_ARGUMENT above 16 bits
 */
export function lfqPenalties(
  z: Tensor,
  options: LfqOptions & { readonly inverseTemperature?: number | undefined } = {},
): Penalties {
  const { inverseTemperature = 100 } = options;
  const d = z.shape.at(-1) ?? 0;
  checkShapes('lfq_penalties', z.rank >= 1, 'a tensor [..., d]', z);
  if (d > MAX_JOINT_BITS)
    invalidArgument(
      'z',
      `at most ${MAX_JOINT_BITS} channels`,
      d,
      'The joint codebook doubles with every bit: use BSQ.',
    );
  const magnitude = lfqMagnitude(d, options);
  const params = [4 * inverseTemperature * magnitude, magnitude];
  return penalties(Op.jointPenalties, Op.jointPenaltiesBackward, z, [2 ** d], params);
}
