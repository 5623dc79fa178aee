/** Pointwise ops. Two operands broadcast by the right-aligned rule. f32 or f64, both operands of one type. */
import { invalidArgument } from '../errors.js';
import { type Shape, scope, sizeOf, type Tensor } from '../tensor.js';
import { checkShapes, isFloat, sameShape } from './check.js';
import { Op, type OpDefinition } from './generated.js';
import { differentiable } from './record.js';
import { like, run, shaped } from './run.js';

/** The shape two operands broadcast to, or undefined when they do not. */
export function broadcastShape(a: Shape, b: Shape): number[] | undefined {
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

function checkFloat(op: string, ...given: Tensor[]): void {
  const ok = isFloat(given[0]!) && given.every((t) => t.dtype === given[0]!.dtype);
  checkShapes(op, ok, 'f32 or f64', ...given);
}

function unary(op: OpDefinition, x: Tensor, params: readonly number[] = []): Tensor {
  checkFloat(op.name, x);
  return run(op, [x], [like(x)], params)[0]!;
}

function binary(op: OpDefinition, a: Tensor, b: Tensor): Tensor {
  checkFloat(op.name, a, b);
  const shape = broadcastShape(a.shape, b.shape);
  checkShapes(op.name, shape !== undefined, 'two shapes that broadcast', a, b);
  return run(op, [a, b], [shaped(a, shape!)])[0]!;
}

/**
 * Sums `x` down to a shape that broadcasts to its own: the gradient of broadcasting. `x` itself when nothing is to sum.
 */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x;
  const lead = x.rank - shape.length;
  const kept = (axis: number): number => (axis < lead ? 1 : shape[axis - lead]!);
  const fits = lead >= 0 && x.shape.every((n, axis) => kept(axis) === n || kept(axis) === 1);
  checkShapes('sum_to', fits, `a tensor that [${shape.join(', ')}] broadcasts to`, x);
  checkFloat('sum_to', x);
  // Each run of neighbouring axes that vanish is one sum; the last one writes the asked shape.
  const groups: { first: number; count: number }[] = [];
  for (let axis = 0; axis < x.rank; axis++) {
    if (x.shape[axis] === 1 || kept(axis) !== 1) continue;
    const group = groups.at(-1);
    const joins = group && x.shape.slice(group.first + group.count, axis).every((n) => n === 1);
    if (joins) group.count = axis - group.first + 1;
    else groups.push({ first: axis, count: 1 });
  }
  let y = x.view(x.shape);
  for (const [i, { first, count }] of groups.entries()) {
    const rest = y.shape.map((n, axis) => (axis >= first && axis < first + count ? 1 : n));
    const last = i === groups.length - 1;
    const [next] = run(Op.sumAxes, [y], [shaped(x, last ? shape : rest)], [first, count, 0]);
    y.dispose();
    y = next!;
  }
  if (groups.length === 0) {
    const flat = y.view(shape);
    y.dispose();
    y = flat;
  }
  differentiable('sum_to', [x], [y], [], ([gy]) => [broadcastTo(gy!, x.shape)]);
  return y;
}

/** Repeats `x` along its extents of 1 (and missing leading axes) up to `shape`; `x` itself when that is its shape. */
export function broadcastTo(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x;
  checkFloat('broadcast_to', x);
  const fits = sizeOf(shape) > 0 && sameShape(broadcastShape(x.shape, shape) ?? [], shape);
  checkShapes('broadcast_to', fits, `a tensor that broadcasts to [${shape.join(', ')}]`, x);
  const [y] = run(Op.broadcastTo, [x], [shaped(x, shape)]);
  differentiable('broadcast_to', [x], [y!], [], ([gy]) => [sumTo(gy!, x.shape)]);
  return y!;
}

/** a + b. */
export function add(a: Tensor, b: Tensor): Tensor {
  const y = binary(Op.add, a, b);
  differentiable('add', [a, b], [y], [], ([gy], need) => [
    need[0] ? sumTo(gy!, a.shape) : null,
    need[1] ? sumTo(gy!, b.shape) : null,
  ]);
  return y;
}

/** a − b. */
export function sub(a: Tensor, b: Tensor): Tensor {
  const y = binary(Op.sub, a, b);
  differentiable('sub', [a, b], [y], [], ([gy], need) => [
    need[0] ? sumTo(gy!, a.shape) : null,
    need[1] ? scale(sumTo(gy!, b.shape), -1) : null,
  ]);
  return y;
}

/** a · b. */
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
  const y = unary(Op.scale, x, [factor]);
  differentiable('scale', [x], [y], [], ([gy]) => [scale(gy!, factor)]);
  return y;
}

/** x + value, the value rounded to f32. */
export function addScalar(x: Tensor, value: number): Tensor {
  const y = unary(Op.addScalar, x, [value]);
  differentiable('add_scalar', [x], [y], [], ([gy]) => [gy!]);
  return y;
}

/** x limited to [lo, hi]; either may be infinite. The gradient passes where lo ≤ x ≤ hi. */
export function clamp(x: Tensor, lo: number, hi: number): Tensor {
  if (!(lo <= hi)) invalidArgument('the limits of clamp', 'lo ≤ hi', [lo, hi]);
  const y = unary(Op.clamp, x, [lo, hi]);
  differentiable('clamp', [x], [y], [x], ([gy]) => run(Op.clampBackward, [gy!, x], [like(x)], [lo, hi]));
  return y;
}

/** max(x, 0). The gradient passes where x ≥ 0. */
export function relu(x: Tensor): Tensor {
  return clamp(x, 0, Number.POSITIVE_INFINITY);
}

/** x where it is positive, slope · x where it is not, for slopes from 0 to 1. */
export function leakyRelu(x: Tensor, slope: number): Tensor {
  return scope(() => add(scale(x, slope), scale(relu(x), 1 - slope)));
}

/** eˣ. */
export function exp(x: Tensor): Tensor {
  const y = unary(Op.exp, x);
  differentiable('exp', [x], [y], [y], ([gy]) => [mul(gy!, y)]);
  return y;
}

/** |x|; the gradient at 0 is 0. */
export function abs(x: Tensor): Tensor {
  const y = unary(Op.abs, x);
  differentiable('abs', [x], [y], [x], ([gy]) => run(Op.absBackward, [gy!, x], [like(x)]));
  return y;
}

/** x². */
export function square(x: Tensor): Tensor {
  const y = unary(Op.square, x);
  differentiable('square', [x], [y], [x], ([gy]) => run(Op.squareBackward, [gy!, x], [like(x)]));
  return y;
}

/** 1 / (1 + e⁻ˣ). */
export function sigmoid(x: Tensor): Tensor {
  const y = unary(Op.sigmoid, x);
  differentiable('sigmoid', [x], [y], [y], ([gy]) => run(Op.sigmoidBackward, [gy!, y], [like(x)]));
  return y;
}

/** GELU in its tanh form, as the official feed-forward uses it. */
export function gelu(x: Tensor): Tensor {
  const y = unary(Op.gelu, x);
  differentiable('gelu', [x], [y], [x], ([gy]) => run(Op.geluBackward, [gy!, x], [like(x)]));
  return y;
}

/** x · sigmoid(x), "swish" in the official tokenizer. */
export function silu(x: Tensor): Tensor {
  const y = unary(Op.silu, x);
  differentiable('silu', [x], [y], [x], ([gy]) => run(Op.siluBackward, [gy!, x], [like(x)]));
  return y;
}

/** silu(gate) · x, both of one shape. */
export function swiglu(gate: Tensor, x: Tensor): Tensor {
  checkFloat('swiglu', gate, x);
  checkShapes('swiglu', sameShape(gate.shape, x.shape), 'two tensors of one shape', gate, x);
  const [y] = run(Op.swiglu, [gate, x], [like(x)]);
  differentiable('swiglu', [gate, x], [y!], [gate, x], ([gy]) =>
    run(Op.swigluBackward, [gy!, gate, x], [like(gate), like(x)]),
  );
  return y!;
}
