/**
 * Bits of the visual code: 0 or 1 in u8, channels last; their codes, flips, sampling, packing.
 * Sources: Infinity, infinity/models/bsq_vae/multiscale_bsq.py (indices_to_codes), infinity/models/infinity.py (sampling).
 */
import { Device } from '../device.js';
import { invalidArgument } from '../errors.js';
import { RandomStream, seedWords } from '../philox.js';
import { type Shape, Tensor } from '../tensor.js';
import { checkShapes, isFloat, sameShape } from './check.js';
import { Op } from './generated.js';
import { refuseGradient } from './record.js';
import { like, run, shaped, statistic } from './run.js';

/**
 * Where the uniform numbers of a random op come from: a tensor of recorded ones, or Philox. A Philox draw depends on its
 * image's key, the scale and the element inside the image, never on the position in the batch.
 */
export type UniformSource = Tensor | { readonly keys: Tensor; readonly scale: number };

/** What an image's draws are keyed by. */
export interface DrawKey {
  readonly seed: number | bigint;
  readonly image: number;
}

/** Philox keys as the ops read them, [B, 3]: seed low, seed high, image. */
export function keyRows(images: readonly DrawKey[]): Int32Array {
  const words = Uint32Array.from(images.flatMap(({ seed, image }) => [...seedWords(seed), image]));
  return new Int32Array(words.buffer);
}

/** Philox keys i32 [B, 3] on the device, one row an image. */
export function drawKeys(images: readonly DrawKey[], device: Device = Device.default()): Tensor {
  return Tensor.from(keyRows(images), [images.length, 3], 'i32', device);
}

/** The operands draws, keys and the parameter scale of a random op; draws have the shape of the bits. */
function uniformOperands(
  op: string,
  source: UniformSource | undefined,
  bits: Shape,
): [Tensor | null, Tensor | null, number] {
  if (!source) return [null, null, 0];
  if (source instanceof Tensor) {
    checkShapes(op, sameShape(source.shape, bits) && isFloat(source), `draws [${bits.join(', ')}]`, source);
    return [source, null, 0];
  }
  const { keys, scale } = source;
  checkShapes(op, keys.dtype === 'i32' && sameShape(keys.shape, [bits[0] ?? 1, 3]), 'keys i32 [B, 3]', keys);
  return [null, keys, scale];
}

/**
 * Codes +-1/sqrt(d) of bits [..., d], normalised as the official code does (in f32 one unit in the last place off for
 * some d).
 */
export function bitsToCodes(bits: Tensor, dtype: 'f32' | 'f64' = 'f32'): Tensor {
  checkShapes('bits_to_codes', bits.dtype === 'u8' && bits.rank >= 1, 'bits u8 [..., d]', bits);
  return run(Op.bitsToCodes, [bits], [{ dtype, shape: bits.shape }])[0]!;
}

/** Bits [B, ..., d] with those inverted whose draw is below `strength`. */
export function bitFlip(bits: Tensor, strength: number, source: UniformSource): Tensor {
  checkShapes('bit_flip', bits.dtype === 'u8' && bits.rank >= 1, 'bits u8 [B, ..., d]', bits);
  if (!(strength >= 0 && strength <= 1)) invalidArgument('strength', 'a probability from 0 to 1', strength);
  const [draws, keys, scale] = uniformOperands('bit_flip', source, bits.shape);
  return run(Op.bitFlip, [bits, draws, keys], [like(bits)], [strength, scale, RandomStream.bitFlip])[0]!;
}

/** Bytes of d packed bits. */
export const packedBytes = (d: number): number => Math.ceil(d / 8);

/**
 * Eight bits a byte along the last axis, channel 0 first and in the most significant place: [..., ceil(d / 8)]. The form of
 * labels in training.
 */
export function packBits(bits: Tensor): Tensor {
  checkShapes('pack_bits', bits.dtype === 'u8' && bits.rank >= 1, 'bits u8 [..., d]', bits);
  return run(Op.packBits, [bits], [shaped(bits, [...bits.shape.slice(0, -1), packedBytes(bits.shape.at(-1)!)])])[0]!;
}

/** The inverse of `packBits` for d channels. */
export function unpackBits(packed: Tensor, d: number): Tensor {
  const fits = packed.dtype === 'u8' && packed.rank >= 1 && packed.shape.at(-1) === packedBytes(d);
  checkShapes('unpack_bits', fits, `bytes u8 [..., ${packedBytes(d)}]`, packed);
  return run(Op.unpackBits, [packed], [shaped(packed, [...packed.shape.slice(0, -1), d])])[0]!;
}

/** What a draw depends on besides its logits, in numbers. */
export interface SampleChoice {
  /** guided = guidance * conditional + (1 - guidance) * unconditional; without unconditional logits it has no effect. */
  readonly guidance?: number | undefined;
  /** Temperature that divides the logits. */
  readonly tau?: number | undefined;
  /** The less likely value is dropped when its probability is at most 1 - topP; 0 switches this off. */
  readonly topP?: number | undefined;
}

/**
 * Choices as the ops read them, f32 [n, 3]: recorded commands then run with whatever the tensor holds.
 * @throws InfinityError INVALID_ARGUMENT
 */
export function choiceRows(choices: readonly SampleChoice[]): Float32Array {
  return Float32Array.from(
    choices.flatMap(({ guidance = 1, tau = 1, topP = 0 }) => {
      if (!Number.isFinite(guidance)) invalidArgument('guidance', 'a finite number', guidance);
      if (!(tau > 0 && Number.isFinite(tau))) invalidArgument('tau', 'a positive number', tau);
      if (!(topP >= 0 && topP <= 1)) invalidArgument('topP', 'a probability from 0 to 1', topP);
      return [guidance, 1 / tau, topP > 0 ? 1 - topP : -1];
    }),
  );
}

/** How a bit is chosen from its logits. */
export interface BitSampleOptions extends SampleChoice {
  /** A row of `choiceRows` on the device, [3], in place of the numbers. */
  readonly choice?: Tensor | undefined;
  /** 1 is greedy: the larger logit wins, value 0 a tie, and nothing is drawn. With two values 0 and 2 or more do nothing. */
  readonly topK?: number | undefined;
  /** Needed unless greedy: a bit is 1 when its number is above the probability of 0. */
  readonly draws?: UniformSource;
}

/**
 * Submits an op that chooses bits of this shape: it takes draws, keys and choice as its last operands, and the words of the
 * Philox counter.
 * @throws InfinityError INVALID_ARGUMENT, INVALID_SHAPE
 */
export function withChoice<T>(
  op: string,
  options: BitSampleOptions,
  { bits, device }: { readonly bits: Shape; readonly device: Device },
  submit: (operands: readonly (Tensor | null)[], counter: readonly [scale: number, stream: number]) => T,
): T {
  const { topK = 0, draws: source, choice: given } = options;
  if (!(Number.isInteger(topK) && topK >= 0)) invalidArgument('topK', 'an integer from 0', topK);
  if (topK !== 1 && !source)
    invalidArgument('draws', 'a tensor of draws or Philox keys', source, 'Only topK: 1 draws nothing.');
  checkShapes(op, !given || (given.dtype === 'f32' && given.size === 3), 'a choice f32 [3]', given);
  const [draws, keys, scale] = uniformOperands(op, source, bits);
  const choice = given ?? Tensor.from(choiceRows([options]), [3], 'f32', device);
  try {
    return submit([draws, keys, choice], [scale, RandomStream.bitDraw]);
  } finally {
    if (!given) choice.dispose();
  }
}

/**
 * Chooses bits from the two logits of each.
 * @param cond logits [B, L, 2D] of the conditional branch; entries 2j and 2j + 1 belong to the values 0 and 1 of bit j
 * @param uncond the same of the unconditional branch, or null
 * @returns bits u8 [B, L, D], and the probability of 0 after top-k and top-p (exactly 0 or 1 where one value was dropped)
 * @throws InfinityError INVALID_ARGUMENT; NUMERICAL (from a read) when a logit is not a number
 */
export function bitSample(
  cond: Tensor,
  uncond: Tensor | null,
  options: BitSampleOptions = {},
): { bits: Tensor; prob0: Tensor } {
  const even = isFloat(cond) && cond.rank === 3 && cond.shape[2]! % 2 === 0;
  const matches = !uncond || (uncond.dtype === cond.dtype && sameShape(uncond.shape, cond.shape));
  checkShapes('bit_sample', even && matches, 'logits [B, L, 2D], those of both branches alike,', cond, uncond);
  const shape = [cond.shape[0]!, cond.shape[1]!, cond.shape[2]! / 2];
  refuseGradient('bit_sample', [cond, uncond]);
  const outputs = [
    { dtype: 'u8', shape },
    { dtype: statistic(cond), shape },
  ] as const;
  const [bits, prob0] = withChoice('bit_sample', options, { bits: shape, device: cond.device }, (operands, counter) =>
    run(Op.bitSample, [cond, uncond, ...operands], outputs, [Number(options.topK === 1), ...counter]),
  );
  return { bits: bits!, prob0: prob0! };
}
