/** Sums and means. Partial sums of a fixed number of terms are added up in double, in an order that only the length decides. */
import type { Shape, Tensor } from '../tensor.js';
import { axisOf, checkShapes, isFloat } from './check.js';
import { broadcastTo, scale } from './elementwise.js';
import { Op } from './generated.js';
import { differentiable } from './record.js';
import { run, shaped } from './run.js';

function reduce(x: Tensor, first: number, count: number, mean: boolean): Tensor {
  const name = mean ? 'mean' : 'sum';
  checkShapes(name, isFloat(x), 'f32 or f64', x);
  const shape = [...x.shape.slice(0, first), ...x.shape.slice(first + count)];
  const [y] = run(Op.sumAxes, [x], [shaped(x, shape)], [first, count, mean ? 1 : 0]);
  differentiable(name, [x], [y!], [], ([gy]) => [spread(gy!, x.shape, first, count, mean)]);
  return y!;
}

/** The gradient of `reduce`: each term gets the cotangent of its sum. */
function spread(gy: Tensor, shape: Shape, first: number, count: number, mean: boolean): Tensor {
  const terms = shape.slice(first, first + count).reduce((n, extent) => n * extent, 1);
  const share = mean ? scale(gy, 1 / terms) : gy;
  const kept = shape.map((n, axis) => (axis >= first && axis < first + count ? 1 : n));
  return broadcastTo(share.view(kept), shape);
}

/** The sum of all elements, [...] -> []. */
export function sum(x: Tensor): Tensor {
  return reduce(x, 0, x.rank, false);
}

/** The mean of all elements, [...] -> []. */
export function mean(x: Tensor): Tensor {
  return reduce(x, 0, x.rank, true);
}

/** Sums one axis away; a negative axis counts from the end. */
export function sumAxis(x: Tensor, axis: number): Tensor {
  return reduce(x, axisOf(x, axis), 1, false);
}

/** The mean along one axis, which goes away; a negative axis counts from the end. */
export function meanAxis(x: Tensor, axis: number): Tensor {
  return reduce(x, axisOf(x, axis), 1, true);
}
