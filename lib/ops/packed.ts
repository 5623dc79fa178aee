/** Where weights of a frozen layer are laid out anew for the product, and where they stay as they are. */
import type { Tensor } from '../tensor.js';
import { cast } from './shape.js';

/** The processor reads weights from panels; kernels of a card stage the official layout through shared memory. */
export const packsWeights = (w: Tensor): boolean => w.device.kind === 'cpu';

/** w in the official layout and another type; the caller owns the result. */
export const unpackedWeight = (w: Tensor, dtype: 'f32' | 'bf16'): Tensor =>
  w.dtype === dtype ? w.retain() : cast(w, dtype);
