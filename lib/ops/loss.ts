/** Mean distances between two tensors of one shape. */
import type { Tensor } from '../tensor.js';
import { checkShapes, isFloat, sameShape } from './check.js';
import { scale } from './elementwise.js';
import { Op } from './generated.js';
import { differentiable } from './record.js';
import { like, run, statistic } from './run.js';

function meanDistance(name: 'l1Loss' | 'l2Loss', x: Tensor, y: Tensor): Tensor {
  const float = x.dtype === y.dtype && isFloat(x);
  const same = sameShape(x.shape, y.shape);
  checkShapes(Op[name].name, float && same, 'two float tensors of one shape', x, y);
  const [loss] = run(Op[name], [x, y], [{ dtype: statistic(x), shape: [] }]);
  differentiable(Op[name].name, [x, y], [loss!], [x, y], ([gy], need) => {
    const [gx] = run(Op[`${name}Backward`], [gy!, x, y], [like(x)]);
    return [gx!, need[1] ? scale(gx!, -1) : null];
  });
  return loss!;
}

/** mean |x - y| -> []; the gradient where x = y is 0. */
export function l1Loss(x: Tensor, y: Tensor): Tensor {
  return meanDistance('l1Loss', x, y);
}

/** mean (x - y)² -> []. */
export function l2Loss(x: Tensor, y: Tensor): Tensor {
  return meanDistance('l2Loss', x, y);
}
