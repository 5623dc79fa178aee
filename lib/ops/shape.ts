/** Ops that move elements without looking at them. Any type, unless an op says otherwise; a negative axis counts from the end. */

import type { Device } from '../device.js';
import { InfinityError, invalidArgument } from '../errors.js';
import { type DType, type Shape, scope, sizeOf, Tensor } from '../tensor.js';
import { axisOf, checkShapes, isFloat, sameShape } from './check.js';
import { broadcastTo } from './elementwise.js';
import { Op } from './generated.js';
import { differentiable, refuseGradient } from './record.js';
import { run, shaped } from './run.js';

const withExtent = (shape: Shape, axis: number, extent: number): number[] =>
  shape.map((n, i) => (i === axis ? extent : n));

/** The same elements under another shape: a view. One extent may be -1 and is computed. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  const known = shape.reduce((n, extent) => (extent === -1 ? n : n * extent), 1);
  const full = shape.map((extent) => (extent === -1 ? x.size / known : extent));
  const fits = shape.filter((n) => n === -1).length <= 1 && full.every((n) => Number.isInteger(n) && n > 0);
  checkShapes('reshape', fits && sizeOf(full) === x.size, `a tensor that fills [${shape.join(', ')}]`, x);
  const y = x.view(full);
  differentiable('reshape', [x], [y], [], ([gy]) => [gy!.view(x.shape)]);
  return y;
}

/** A new tensor of one value (rounded to f32, and to the type). */
export function fill(shape: Shape, value: number, dtype: DType = 'f32', device?: Device): Tensor {
  const y = Tensor.empty(shape, dtype, device);
  run(Op.fill, [], [y], [value]);
  return y;
}

/** Zeros in the shape and type of x. */
export function zerosLike(x: Tensor): Tensor {
  return fill(x.shape, 0, x.dtype, x.device);
}

/** Positions start ≤ i < end of an axis, which stays. A copy. */
export function slice(x: Tensor, axis: number, start: number, end: number): Tensor {
  const at = axisOf(x, axis);
  const extent = x.shape[at]!;
  if (!Number.isInteger(start) || !Number.isInteger(end) || start < 0 || end <= start || end > extent)
    invalidArgument('the range of slice', `0 ≤ start < end ≤ ${extent}`, [start, end]);
  const [y] = run(Op.slice, [x], [shaped(x, withExtent(x.shape, at, end - start))], [at, start, end - start]);
  differentiable('slice', [x], [y!], [], ([gy]) => [pad(gy!, at, start, extent - end)]);
  return y!;
}

/** `value` (rounded to f32) before and after the elements of an axis. f32 or f64. */
export function pad(x: Tensor, axis: number, before: number, after: number, value = 0): Tensor {
  const at = axisOf(x, axis);
  for (const n of [before, after])
    if (!Number.isInteger(n) || n < 0) invalidArgument('the widths of pad', 'integers from 0', [before, after]);
  checkShapes('pad', isFloat(x), 'f32 or f64', x);
  const extent = x.shape[at]!;
  const [y] = run(Op.pad, [x], [shaped(x, withExtent(x.shape, at, before + extent + after))], [at, before, value]);
  differentiable('pad', [x], [y!], [], ([gy]) => [slice(gy!, at, before, before + extent)]);
  return y!;
}

/**
 * Overwrites positions of an axis of `into` from `start` on, in place. Not differentiable.
 * @throws InfinityError INVALID_SHAPE, INVALID_ARGUMENT, where x would reach beyond `into`
 */
export function writeSlice(into: Tensor, x: Tensor, axis: number, start: number): void {
  const at = axisOf(into, axis);
  const [extent, room] = [x.shape[at]!, into.shape[at]!];
  const fits = x.dtype === into.dtype && extent <= room && sameShape(x.shape, withExtent(into.shape, at, extent));
  checkShapes('write_slice', fits, `a tensor and at most as much of its axis ${at}`, into, x);
  if (!Number.isInteger(start) || start < 0 || start > room - extent)
    invalidArgument('the start of writeSlice', `0 to ${room - extent}`, start);
  refuseGradient('write_slice', [x]);
  run(Op.writeSlice, [x], [into], [at, start]);
}

function join(xs: readonly Tensor[], at: number, shape: Shape): Tensor {
  const y = Tensor.empty(shape, xs[0]!.dtype, xs[0]!.device);
  let start = 0;
  for (const x of xs) {
    run(Op.writeSlice, [x], [y], [at, start]);
    start += x.shape[at]!;
  }
  return y;
}

/** Puts tensors one after the other along an axis; all other extents agree. */
export function cat(xs: readonly Tensor[], axis: number): Tensor {
  const first = xs[0];
  if (!first) invalidArgument('the tensors of cat', 'at least one', xs.length);
  const at = axisOf(first, axis);
  const agrees = (x: Tensor): boolean =>
    x.dtype === first.dtype && x.rank === first.rank && x.shape.every((n, i) => i === at || n === first.shape[i]);
  checkShapes('cat', xs.every(agrees), 'tensors that differ along one axis only', ...xs);
  const y = join(
    xs,
    at,
    withExtent(
      first.shape,
      at,
      xs.reduce((n, x) => n + x.shape[at]!, 0),
    ),
  );
  differentiable('cat', xs, [y], [], ([gy], need) => {
    let end = 0;
    return xs.map((x, i) => {
      const start = end;
      end += x.shape[at]!;
      return need[i] ? slice(gy!, at, start, end) : null;
    });
  });
  return y;
}

/** The slices of an axis, which goes away: [.., n, ..] -> n tensors [.., ..]. Views of a first axis, copies of another. */
export function unbind(x: Tensor, axis: number): Tensor[] {
  const at = axisOf(x, axis);
  const shape = x.shape.filter((_, i) => i !== at);
  const together = sizeOf(x.shape.slice(0, at)) === 1;
  const slice = (i: number): Tensor =>
    together ? x.view(shape, i * sizeOf(shape)) : run(Op.slice, [x], [shaped(x, shape)], [at, i, 1])[0]!;
  const ys = Array.from({ length: x.shape[at]! }, (_, i) => slice(i));
  const one = withExtent(x.shape, at, 1);
  differentiable('unbind', [x], ys, [], (gys) => [
    join(
      gys.map((gy) => (gy ? gy.view(one) : fill(one, 0, x.dtype, x.device))),
      at,
      x.shape,
    ),
  ]);
  return ys;
}

/** Output axis i is input axis `axes[i]`. */
export function permute(x: Tensor, axes: readonly number[]): Tensor {
  const from = axes.map((axis) => axisOf(x, axis));
  if (from.length !== x.rank || new Set(from).size !== x.rank)
    invalidArgument('axes', `a permutation of the ${x.rank} axes`, axes);
  const shape = from.map((axis) => x.shape[axis]!);
  const params = Array.from({ length: Op.permute.params.length }, (_, i) => from[i] ?? 0);
  const [y] = run(Op.permute, [x], [shaped(x, shape)], params);
  differentiable('permute', [x], [y!], [], ([gy]) => [
    permute(
      gy!,
      from.map((_, axis) => from.indexOf(axis)),
    ),
  ]);
  return y!;
}

/** The batch n times over, [B, ...] -> [nB, ...]: x, then x again. f32 or f64. */
export function repeat0(x: Tensor, n: number): Tensor {
  if (!Number.isInteger(n) || n < 1) invalidArgument('n', 'a positive integer', n);
  const [batch = 1, ...rest] = x.shape;
  return scope(() => {
    const size = x.size / batch;
    const copies = broadcastTo(reshape(x, [1, batch, size]), [n, batch, size]);
    return reshape(copies, [n * batch, ...rest]);
  });
}

/** Another type: every type to f32 or f64, f32 and f64 to bf16 (to nearest, ties to even). The gradient comes back in x's type. */
export function cast(x: Tensor, dtype: DType): Tensor {
  if (x.dtype === dtype) return x;
  const float = dtype === 'f32' || dtype === 'f64';
  if (!float && !(dtype === 'bf16' && isFloat(x)))
    throw new InfinityError('UNSUPPORTED_DTYPE', `Expected a type that ${x.dtype} casts to but received '${dtype}'.`, {
      value: dtype,
      cure: 'Every type casts to f32 and f64; f32 and f64 cast to bf16.',
    });
  const [y] = run(Op.cast, [x], [{ dtype, shape: x.shape }]);
  differentiable('cast', [x], [y!], [], ([gy]) => [cast(gy!, x.dtype)]);
  return y!;
}
