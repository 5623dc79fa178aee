/** What is taken over from another picture while one is drawn: bits of some tokens, and the running sum at some positions. */
import { invalidArgument } from '../errors.js';
import { bitsToCodes } from '../ops/bits.js';
import { add, mul } from '../ops/elementwise.js';
import { signQuantize } from '../ops/quantize.js';
import { statistic } from '../ops/run.js';
import { cast } from '../ops/shape.js';
import { scope, Tensor } from '../tensor.js';
import { addCodes } from './bit_tokens.js';
import { finestGrid, type ScaleSchedule } from './schedule.js';

/** Among forced bits: this one is drawn. */
export const FREE_BIT = 2;

/**
 * Drawn bits u8 [B, L, D], replaced where `forced` holds 0 or 1.
 * @param forced [B, L, D], or [1, L, D] for all pictures
 */
export function forceBits(drawn_BLD: Tensor, forced: Uint8Array): Tensor {
  const [B = 0, L = 0, D = 0] = drawn_BLD.shape;
  if (forced.length !== L * D && forced.length !== B * L * D)
    invalidArgument('the forced bits', `${L * D} or ${B * L * D}`, forced.length);
  return scope(() => {
    const { device } = drawn_BLD;
    const where = (bit: number): Tensor =>
      Tensor.from(
        Float32Array.from(forced, (b) => Number(b === bit)),
        [forced.length / (L * D), L, D],
        'f32',
        device,
      );
    // drawn * free + ones is 0 or 1 and exact, so its sign is the bit.
    return signQuantize(add(mul(cast(drawn_BLD, 'f32'), where(FREE_BIT)), where(1)), 1).bits;
  });
}

/** Running sums of another picture that hold at some latent positions of the finest grid. */
export interface KeptSums {
  /** 1 where drawn codes count, 0 where the sums hold. */
  readonly redrawn_1HW1: Tensor;
  /** The sum after each scale, 0 where drawn codes count. */
  readonly sums_1HWd: readonly Tensor[];
}

/**
 * The sums of a picture at the positions that stay.
 * @param bits u8 [h_k, w_k, d] of every scale
 * @param redrawn [H, W] of the finest grid: 1 where the picture is drawn anew
 */
export function keptSums(
  bits: readonly Uint8Array[],
  schedule: ScaleSchedule,
  redrawn: Uint8Array,
  { device, ...network }: Pick<Tensor, 'device' | 'dtype'>,
): KeptSums {
  const finest = finestGrid(schedule);
  const shape = [1, ...finest, 1];
  const dtype = statistic(network);
  return scope(() => {
    const stays = Tensor.from(
      Float32Array.from(redrawn, (r) => 1 - r),
      shape,
      dtype,
      device,
    );
    let sum: Tensor | null = null;
    const sums_1HWd = schedule.map(([, h, w], k) => {
      const bits_1hwd = Tensor.from(bits[k]!, [1, h, w, bits[k]!.length / (h * w)], 'u8', device);
      sum = addCodes(sum, bitsToCodes(bits_1hwd, dtype), finest);
      return mul(sum, stays);
    });
    return { redrawn_1HW1: Tensor.from(Float32Array.from(redrawn), shape, dtype, device), sums_1HWd };
  });
}

/** The running sum [B, H, W, d] after scale k with the kept sums in their places, exactly. */
export function keepSum(drawn_BHWd: Tensor, { redrawn_1HW1, sums_1HWd }: KeptSums, k: number): Tensor {
  return scope(() => add(mul(drawn_BHWd, redrawn_1HW1), sums_1HWd[k]!));
}

/**
 * The share of each cell of a grid [h, w] that is redrawn; a cell covers the finest positions that it touches.
 * @param redrawn [H, W], 0 or 1
 */
export function redrawnShare(
  redrawn: Uint8Array,
  [H, W]: readonly [H: number, W: number],
  [h, w]: readonly [h: number, w: number],
): Float64Array {
  const share = new Float64Array(h * w);
  for (let i = 0; i < h; i++)
    for (let j = 0; j < w; j++) {
      const [top, bottom] = [Math.floor((i * H) / h), Math.ceil(((i + 1) * H) / h)];
      const [left, right] = [Math.floor((j * W) / w), Math.ceil(((j + 1) * W) / w)];
      let sum = 0;
      for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) sum += redrawn[y * W + x]!;
      share[i * w + j] = sum / ((bottom - top) * (right - left));
    }
  return share;
}

/** Bits [h_k, w_k, d] of every scale that are forced: those of cells that mostly stay; the others are `FREE_BIT`. */
export function forcedBits(bits: readonly Uint8Array[], schedule: ScaleSchedule, redrawn: Uint8Array): Uint8Array[] {
  return schedule.map(([, h, w], k) => {
    const d = bits[k]!.length / (h * w);
    const share = redrawnShare(redrawn, finestGrid(schedule), [h, w]);
    return bits[k]!.map((bit, i) => (share[Math.floor(i / d)]! > 0.5 ? FREE_BIT : bit));
  });
}
