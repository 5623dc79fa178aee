/** Pooling of channels-last pictures, composed: values are exact up to the rounding of a + (b - a). */
import { scope, type Tensor } from '../tensor.js';
import { checkShapes, isFloat } from './check.js';
import { add, relu, sub } from './elementwise.js';
import { reshape, slice } from './shape.js';

/** The larger of a and b; the gradient goes to b where they are equal. */
function maximum(a: Tensor, b: Tensor): Tensor {
  return add(a, relu(sub(b, a)));
}

/** Maxima of 2 x 2 windows, [B, H, W, C] -> [B, ⌊H/2⌋, ⌊W/2⌋, C]: torch's MaxPool2d(2). An odd last row or column is left out. */
export function maxPool2x2(x_BHWC: Tensor): Tensor {
  const [B = 0, H = 0, W = 0, C = 0] = x_BHWC.shape;
  checkShapes(
    'max_pool',
    x_BHWC.rank === 4 && isFloat(x_BHWC) && H > 1 && W > 1,
    'a float [B, H, W, C] from 2 x 2',
    x_BHWC,
  );
  const [h, w] = [Math.floor(H / 2), Math.floor(W / 2)];
  return scope(() => {
    const even = W % 2 === 0 ? x_BHWC : slice(x_BHWC, 2, 0, 2 * w);
    const rows = reshape(H % 2 === 0 ? even : slice(even, 1, 0, 2 * h), [B * h, 2, 2 * w * C]);
    const columns = reshape(maximum(slice(rows, 1, 0, 1), slice(rows, 1, 1, 2)), [B * h * w, 2, C]);
    return reshape(maximum(slice(columns, 1, 0, 1), slice(columns, 1, 1, 2)), [B, h, w, C]);
  });
}
