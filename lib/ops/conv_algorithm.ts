/** How a convolution with packed weights is computed on the CPU. */

/**
 * What the choice depends on: neither the number of pictures, so that a batch changes no bit, nor their height, so that a
 * picture in bands of rows (a multiple of four rows each) is the whole picture.
 */
export interface ConvShape {
  /** `3x3` with stride 1, `upsample` (nearest ×2, then 3 × 3), or any other kernel. */
  readonly form: '3x3' | 'upsample' | 'other';
  /** Columns before any upsampling. */
  readonly width: number;
  readonly inChannels: number;
}

/** `direct` multiplies as the definition does; `winograd` multiplies less and adds more (native/cpu/winograd.h). */
export type ConvAlgorithm = 'direct' | 'winograd';

/** The fewest channels at which the error is at most twice that of the plain sum (docs/decisions.md). */
const leastChannels = { '3x3': 48, upsample: 16, other: Number.POSITIVE_INFINITY };
/** Pictures of fewer columns do not pay for the transformation of the weights. */
const LEAST_WIDTH = 16;

/** The faster algorithm among those that keep the error budget: a function of the shape alone. */
export function convAlgorithm({ form, width, inChannels }: ConvShape): ConvAlgorithm {
  return width >= LEAST_WIDTH && inChannels >= leastChannels[form] ? 'winograd' : 'direct';
}
