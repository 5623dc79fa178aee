/**
 * A norm of rows that the products around it carry out, for frozen networks on a card. With μ and r = 1 / √(variance + eps) of the rows
 * of x, and a scale f and a shift t that do not depend on x,
 *
 *     W·((x − μ)·r ⊙ f + t) + b = r·(W·(x ⊙ f)) − r·μ·(W·f) + W·t + b.
 *
 * The product that makes x leaves x ⊙ f and the moments of its rows; the one that reads the norm takes x ⊙ f as it lies and finishes
 * its sums with r, μ, W·f and W·t, in f32. What is rounded is x ⊙ f instead of x and the norm of it: no less exact, however far the
 * mean is from zero, as long as x itself would be stored in that type.
 */
import type { Device } from '../device.js';
import type { Tensor } from '../tensor.js';
import { checkShapes, sameShape } from './check.js';
import { Op } from './generated.js';
import { gateFits, type PackedWeight } from './linear.js';
import { refuseGradient } from './record.js';
import { run, shaped } from './run.js';

/**
 * Whether norms between frozen layers are carried out by the products around them: on a card, unless its products may be left to a
 * library, which would need a pass more to finish them than the norm takes.
 */
export const foldsNorms = ({ kind, deterministic }: Device): boolean => kind === 'cuda' && deterministic;

/** Columns of a run of moments, as in native/ops/linear_norm/linear_norm.h. */
const RUN = 32;
const runsOf = (columns: number): number => Math.ceil(columns / RUN);

/** Rows as a norm wants them: x ⊙ f in the type of activations, and f32 [..., runs, 2], means and squared deviations of runs of x. */
export interface ScaledRows {
  readonly scaled: Tensor;
  readonly moments: Tensor;
}

/** f32 [G, 2, width] with one pair of rows for each sample of x, or for all. */
const isPair = (pair: Tensor, x: Tensor, width: number): boolean =>
  pair.dtype === 'f32' &&
  pair.rank === 3 &&
  sameShape(pair.shape.slice(1), [2, width]) &&
  x.shape[0]! % pair.shape[0]! === 0;
const isBias = (b: Tensor | null, width: number): boolean => !b || (b.rank === 1 && b.size === width);

/**
 * residual + gate · (x·Wᵀ + b), and what the product that reads the norm of this sum takes.
 * @param x [B, ..., K] on a card
 * @param w [N, K]
 * @param b [N], or nothing
 * @param onto.residual [B, ..., N]
 * @param onto.gate [B, 1, N] or [1, 1, N]
 * @param affine_G2N scale f and shift t of the norm, f32 [B or 1, 2, N]; the shift is not read
 * @throws InfinityError INVALID_SHAPE
 */
export function linearMeasured(
  x: Tensor,
  { packed: w, out, inputs }: PackedWeight,
  b: Tensor | null,
  { residual, gate }: { readonly residual: Tensor; readonly gate?: Tensor | undefined },
  affine_G2N: Tensor,
): ScaledRows & { readonly sum: Tensor } {
  const shape = [...x.shape.slice(0, -1), out];
  const fits =
    x.shape.at(-1) === inputs &&
    sameShape(residual.shape, shape) &&
    isBias(b, out) &&
    (!gate || gateFits(gate, shape)) &&
    isPair(affine_G2N, x, out);
  checkShapes(
    'linear_measured',
    fits,
    `x [B, ..., ${inputs}], a residual [B, ..., ${out}] and an affine [B, 2, ${out}]`,
    x,
    residual,
    affine_G2N,
  );
  refuseGradient('linear_measured', [x, b, residual, gate, affine_G2N]);
  const outputs = [
    shaped(residual, shape),
    shaped(x, shape),
    { dtype: 'f32', shape: [...x.shape.slice(0, -1), runsOf(out), 2] },
  ] as const;
  const [sum, scaled, moments] = run(Op.linearMeasured, [x, w, b, residual, gate, affine_G2N], outputs);
  return { sum: sum!, scaled: scaled!, moments: moments! };
}

/**
 * norm(x)·Wᵀ + b of rows that `linearMeasured` left, with the scale and the shift that they were left for.
 * @param w [N, K]
 * @param b [N], or nothing
 * @param projected_G2N both behind the weights, `affine·Wᵀ`, f32 [B or 1, 2, N]
 * @param norm.centred without it the mean is taken for zero: the norm by the root mean square
 * @returns [B, ..., N]
 * @throws InfinityError INVALID_SHAPE
 */
export function linearNormed(
  { scaled, moments }: ScaledRows,
  { packed: w, out, inputs }: PackedWeight,
  b: Tensor | null,
  projected_G2N: Tensor,
  norm: { readonly eps: number; readonly centred: boolean; readonly gelu?: boolean },
): Tensor {
  const leading = scaled.shape.slice(0, -1);
  const fits =
    scaled.shape.at(-1) === inputs &&
    sameShape(moments.shape, [...leading, runsOf(inputs), 2]) &&
    isBias(b, out) &&
    isPair(projected_G2N, scaled, out);
  checkShapes(
    'linear_normed',
    fits,
    `rows [B, ..., ${inputs}] with their moments, and projections [B, 2, ${out}]`,
    scaled,
    moments,
    projected_G2N,
  );
  refuseGradient('linear_normed', [scaled, b, moments, projected_G2N]);
  const params = [norm.eps, Number(norm.centred), Number(norm.gelu ?? false)];
  return run(Op.linearNormed, [scaled, w, b, moments, projected_G2N], [shaped(scaled, [...leading, out])], params)[0]!;
}
