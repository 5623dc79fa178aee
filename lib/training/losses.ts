/** Reconstruction losses between pictures, means over all elements, [] each. */
import { abs, square, sub } from '../ops/elementwise.js';
import { mean } from '../ops/reduce.js';
import { scope, type Tensor } from '../tensor.js';

export const l1Loss = (x: Tensor, y: Tensor): Tensor => scope(() => mean(abs(sub(x, y))));
export const l2Loss = (x: Tensor, y: Tensor): Tensor => scope(() => mean(square(sub(x, y))));
