/** What ops ask of their operands before anything is submitted. */
import { InfinityError, invalidArgument } from '../errors.js';
import type { Shape, Tensor } from '../tensor.js';

/** Throws `INVALID_SHAPE` in the house's wording when `ok` is false. */
export function checkShapes(
  op: string,
  ok: boolean,
  expected: string,
  ...given: readonly (Tensor | null | undefined)[]
): void {
  if (ok) return;
  const shapes = given.map((t) => (t ? `${t.dtype}[${t.shape.join(', ')}]` : 'none')).join(' and ');
  throw new InfinityError('INVALID_SHAPE', `Expected ${expected} for ${op} but received ${shapes}.`, { value: shapes });
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((n, i) => n === b[i]);
}

/** The types that arithmetic runs in. The processor keeps bf16 for storage; a card computes from it, in float. */
export function isFloat({ dtype, device }: Tensor): boolean {
  return dtype === 'f32' || dtype === 'f64' || (dtype === 'bf16' && device.kind === 'cuda');
}

/** The axis that `axis` names, a negative one counted from the end. @throws InfinityError INVALID_ARGUMENT */
export function axisOf(x: Tensor, axis: number): number {
  const at = axis < 0 ? axis + x.rank : axis;
  if (!Number.isInteger(at) || at < 0 || at >= x.rank) invalidArgument('axis', `an axis of rank ${x.rank}`, axis);
  return at;
}
