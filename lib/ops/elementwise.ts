/** Pointwise ops. Two operands broadcast by the right-aligned rule. f32 or f64, both operands of one type. */
import { type Shape, sizeOf, Tensor } from '../tensor.js';
import { Op, type OpDefinition } from './generated.js';
import { differentiable } from './record.js';
import { checkShapes, like, run, shaped } from './run.js';

/** The shape two operands broadcast to, or undefined when they do not. */
function broadcastShape(a: Shape, b: Shape): number[] | undefined {
  const rank = Math.max(a.length, b.length);
  const out = new Array<number>(rank);
  for (let i = 1; i <= rank; i++) {
    const x = a[a.length - i] ?? 1;
    const y = b[b.length - i] ?? 1;
    if (x !== y && x !== 1 && y !== 1) return undefined;
    out[rank - i] = Math.max(x, y);
  }
  return out;
}

function binary(op: OpDefinition, a: Tensor, b: Tensor): Tensor {
  const shape = broadcastShape(a.shape, b.shape);
  checkShapes(op.name, shape !== undefined && a.dtype === b.dtype, 'two tensors of one type that broadcast', a, b);
  return run(op, [a, b], [shaped(a, shape!)])[0]!;
}

/** Sums `x` down to a shape that broadcasts to its own: the gradient of broadcasting. */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  if (shape.length === x.rank && shape.every((n, i) => n === x.shape[i])) return x;
  const fits = shape.length <= x.rank && broadcastShape(x.shape, shape)?.every((n, i) => n === x.shape[i]) === true;
  checkShapes('sum_to', fits, `a tensor that [${shape.join(', ')}] broadcasts to`, x);
  const [y] = run(Op.sumTo, [x], [shaped(x, shape)]);
  differentiable('sum_to', [x], [y!], [], ([gy]) => [broadcastTo(gy!, x.shape)]);
  return y!;
}

/** Repeats `x` along its extents of 1 (and missing leading axes) up to `shape`. */
export function broadcastTo(x: Tensor, shape: Shape): Tensor {
  const zero = Tensor.from(new Array<number>(sizeOf(shape)).fill(0), shape, x.dtype, x.device);
  return add(zero, x);
}

export function add(a: Tensor, b: Tensor): Tensor {
  const y = binary(Op.add, a, b);
  differentiable('add', [a, b], [y], [], ([gy], need) => [
    need[0] ? sumTo(gy!, a.shape) : null,
    need[1] ? sumTo(gy!, b.shape) : null,
  ]);
  return y;
}

export function sub(a: Tensor, b: Tensor): Tensor {
  const y = binary(Op.sub, a, b);
  differentiable('sub', [a, b], [y], [], ([gy], need) => [
    need[0] ? sumTo(gy!, a.shape) : null,
    need[1] ? sumTo(scale(gy!, -1), b.shape) : null,
  ]);
  return y;
}

export function mul(a: Tensor, b: Tensor): Tensor {
  const y = binary(Op.mul, a, b);
  differentiable('mul', [a, b], [y], [a, b], ([gy], need) => [
    need[0] ? sumTo(mul(gy!, b), a.shape) : null,
    need[1] ? sumTo(mul(gy!, a), b.shape) : null,
  ]);
  return y;
}

/** x · factor, the factor rounded to f32. */
export function scale(x: Tensor, factor: number): Tensor {
  const [y] = run(Op.scale, [x], [like(x)], [factor]);
  differentiable('scale', [x], [y!], [], ([gy]) => [scale(gy!, factor)]);
  return y!;
}

/** GELU in its tanh form, as the official feed-forward uses it. */
export function gelu(x: Tensor): Tensor {
  const [y] = run(Op.gelu, [x], [like(x)]);
  differentiable('gelu', [x], [y!], [x], ([gy]) => run(Op.geluBackward, [gy!, x], [like(x)]));
  return y!;
}

/** x · sigmoid(x), "swish" in the official tokenizer. */
export function silu(x: Tensor): Tensor {
  const [y] = run(Op.silu, [x], [like(x)]);
  differentiable('silu', [x], [y!], [x], ([gy]) => run(Op.siluBackward, [gy!, x], [like(x)]));
  return y!;
}
