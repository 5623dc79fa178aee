/**
 * Bits, codes, the running sum, and what the next scale sees. Maps are channels last; tokens are their raster order. Sources:
 * Infinity, infinity/models/bsq_vae/flux_vqgan.py (decode_from_indices), infinity/models/infinity.py.
 */
import { invalidArgument } from '../errors.js';
import { bitsToCodes } from '../ops/bits.js';
import { add } from '../ops/elementwise.js';
import { pixelShuffle, pixelUnshuffle, resizeLinear } from '../ops/resize.js';
import { reshape, slice } from '../ops/shape.js';
import { scope, type Tensor } from '../tensor.js';
import { finestGrid, type ScaleSchedule, scaleOffsets } from './schedule.js';

/** A map [B, h, w, d] as tokens: [B, h*w, d], or with patchify [B, h*w/4, 4d] (channel 4c + 2dy + dx). */
export function tokensOfMap(map_Bhwd: Tensor, patchify = false): Tensor {
  return scope(() => {
    const cells = patchify ? pixelUnshuffle(map_Bhwd) : map_Bhwd;
    const [b = 0, h = 0, w = 0, d = 0] = cells.shape;
    return reshape(cells, [b, h * w, d]);
  });
}

/** The inverse of `tokensOfMap` for tokens on a grid of h x w (before patchify doubles it). */
export function mapOfTokens(tokens_BLD: Tensor, [h, w]: readonly [h: number, w: number], patchify = false): Tensor {
  return scope(() => {
    const cells = reshape(tokens_BLD, [tokens_BLD.shape[0] ?? 0, h, w, tokens_BLD.shape[2] ?? 0]);
    return patchify ? pixelShuffle(cells) : cells;
  });
}

/**
 * Codes [B, h', w', d] of bits u8 [B, L, D] on a grid of h x w tokens; with patchify D = 4d and the map has twice the
 * grid's extents. The size of a code comes from the d bits of one latent position.
 */
export function codesOfTokens(
  bits_BLD: Tensor,
  grid: readonly [h: number, w: number],
  { d, patchify = false, dtype = 'f32' }: { d: number; patchify?: boolean; dtype?: 'f32' | 'f64' },
): Tensor {
  return scope(() => {
    const codes = bitsToCodes(reshape(bits_BLD, [-1, d]), dtype);
    return mapOfTokens(reshape(codes, bits_BLD.shape), grid, patchify);
  });
}

/** Tokens of all scales [B, L, D] as one map [B, h, w, D] a scale. */
export function splitScales(tokens_BLD: Tensor, schedule: ScaleSchedule): Tensor[] {
  const [b = 0, length = 0, width = 0] = tokens_BLD.shape;
  const offsets = scaleOffsets(schedule);
  if (offsets.at(-1) !== length) invalidArgument('the tokens', `${offsets.at(-1)} of the schedule`, length);
  return scope(() =>
    schedule.map(([, h, w], k) => reshape(slice(tokens_BLD, 1, offsets[k]!, offsets[k + 1]!), [b, h, w, width])),
  );
}

/** The running sum after one more scale: codes [B, h, w, d] brought to the finest grid and added. */
export function addCodes(sum_BHWd: Tensor | null, codes_Bhwd: Tensor, finest: readonly [h: number, w: number]): Tensor {
  return scope(() => {
    const up_BHWd = resizeLinear(codes_Bhwd, finest);
    return sum_BHWd ? add(sum_BHWd, up_BHWd) : up_BHWd;
  });
}

/** What the transformer sees of the running sum at the next scale: linear, without antialiasing, [B, h, w, d]. */
export function nextInput(sum_BHWd: Tensor, grid: readonly [h: number, w: number]): Tensor {
  return resizeLinear(sum_BHWd, grid);
}

/** What the decoder takes: the sum of all scales' codes at the finest grid. `bits[k]` is u8 [B, h_k, w_k, d]. */
export function sumOfBits(bits: readonly Tensor[], schedule: ScaleSchedule): Tensor {
  if (bits.length === 0 || bits.length > schedule.length)
    invalidArgument('the bits', `1 to ${schedule.length} scales`, bits.length);
  const finest = finestGrid(schedule);
  return scope(() =>
    bits.reduce<Tensor | null>((sum, scaleBits) => addCodes(sum, bitsToCodes(scaleBits), finest), null),
  )!;
}

/**
 * Integer labels as the reference defines them: channel 0 is the most significant of d bits, and 64 bits wrap to negative
 * numbers. Only 18 or fewer bits are a practical vocabulary; the labels are for comparison.
 */
export function integerLabels(bits: Uint8Array, d: number): BigInt64Array {
  if (!(Number.isInteger(d) && d >= 1 && d <= 64)) invalidArgument('d', 'an integer from 1 to 64', d);
  const labels = new BigInt64Array(bits.length / d);
  for (let i = 0; i < labels.length; i++) {
    let value = 0n;
    for (let j = 0; j < d; j++) value = (value << 1n) | BigInt(bits[i * d + j]!);
    labels[i] = BigInt.asIntN(64, value);
  }
  return labels;
}
