/**
 * Normalisation and the modulation that goes with it. Statistics are saved for the backward pass, nothing else is. Beside bf16
 * they are f32, and parameters and modulations are bf16 or f32.
 */
import { type Shape, scope, type Tensor } from '../tensor.js';
import { checkShapes, isFloat, sameShape } from './check.js';
import { Op, type OpDefinition } from './generated.js';
import { differentiable, refuseGradient } from './record.js';
import { like, type OutputSpec, run, statistic } from './run.js';

const channelsOf = (x: Tensor): number => x.shape[x.rank - 1] ?? 1;
const rowsOf = (x: Tensor): number => x.size / channelsOf(x);
const statistics = (x: Tensor, shape: Shape): OutputSpec => ({ dtype: statistic(x), shape });
const goesWith = (t: Tensor, x: Tensor): boolean => isFloat(x) && (t.dtype === x.dtype || t.dtype === statistic(x));
const isRow = (t: Tensor | null, x: Tensor): boolean =>
  t === null ? isFloat(x) : goesWith(t, x) && t.size === channelsOf(x) && channelsOf(t) === t.size;
/** One row for each sample of x, or one for all. */
const isModulation = (t: Tensor, x: Tensor): boolean =>
  goesWith(t, x) &&
  channelsOf(t) === channelsOf(x) &&
  (t.size === channelsOf(x) || t.size === x.shape[0]! * channelsOf(x));

function normaliseRows(
  forward: OpDefinition,
  backward: OpDefinition,
  x: Tensor,
  gain: Tensor | null,
  shift: Tensor | null | undefined,
  eps: number,
): Tensor {
  return scope(() => {
    // `undefined` stands for a norm that has no shift at all, null for one whose shift was left out.
    const operands = shift === undefined ? [x, gain] : [x, gain, shift];
    const [y, stats] = run(forward, operands, [like(x), statistics(x, [rowsOf(x), 2])], [eps]);
    const row = { dtype: (gain ?? shift ?? x).dtype, shape: [channelsOf(x)] };
    const parameters = operands.slice(1).map((t) => (t ? like(t) : gain ? like(gain) : row));
    differentiable(forward.name, operands, [y!], [x, stats, gain], ([gy]) =>
      run(backward, [gy, x, stats, gain], [like(x), ...parameters]),
    );
    return y!;
  });
}

/**
 * Layer normalisation over the last axis, `(x − mean) / √(var + eps) · w + b`, with the biased variance.
 * @param x [..., C]
 * @param w [C] or null for ones
 * @param b [C] or null for zeros
 */
export function layerNorm(x: Tensor, w: Tensor | null, b: Tensor | null, eps: number): Tensor {
  checkShapes('layer_norm', x.rank >= 1 && isRow(w, x) && isRow(b, x), 'x [..., C] with w and b [C]', x, w, b);
  return normaliseRows(Op.layerNorm, Op.layerNormBackward, x, w, b, eps);
}

/**
 * Layer normalisation modulated by the condition, `LN(x) · (1 + scale) + shift` (Infinity, infinity/models/basic.py).
 * @param x_BLC [B, ..., C]
 * @param scale_B1C one row a sample [B, 1, C], or one for all [1, 1, C]
 * @param shift_B1C as `scale_B1C`
 */
export function adaNorm(x_BLC: Tensor, scale_B1C: Tensor, shift_B1C: Tensor, eps: number): Tensor {
  const ok =
    x_BLC.rank >= 2 &&
    isModulation(scale_B1C, x_BLC) &&
    isModulation(shift_B1C, x_BLC) &&
    scale_B1C.size === shift_B1C.size;
  checkShapes('ada_norm', ok, 'x [B, L, C] with scale and shift [B, 1, C]', x_BLC, scale_B1C, shift_B1C);
  return normaliseRows(Op.adaNorm, Op.adaNormBackward, x_BLC, scale_B1C, shift_B1C, eps);
}

/**
 * Root mean square normalisation over the last axis, `x / √(mean(x²) + eps) · w`.
 * @param x [..., C]
 * @param w [C]
 */
export function rmsNorm(x: Tensor, w: Tensor, eps: number): Tensor {
  checkShapes('rms_norm', x.rank >= 1 && isRow(w, x), 'x [..., C] with w [C]', x, w);
  return normaliseRows(Op.rmsNorm, Op.rmsNormBackward, x, w, undefined, eps);
}

/**
 * Group normalisation of a channels-last picture, per sample and group of adjacent channels, with the biased variance.
 * @param x_BHWC [B, ..., C]
 * @param w [C]
 * @param b [C]
 * @param groups divides C
 * @param options.silu applies SiLU to the result in the same pass
 */
export function groupNorm(
  x_BHWC: Tensor,
  w: Tensor,
  b: Tensor,
  groups: number,
  eps: number,
  options: { readonly silu: boolean } = { silu: false },
): Tensor {
  const x = x_BHWC;
  const ok = x.rank >= 2 && isRow(w, x) && isRow(b, x) && groups >= 1 && channelsOf(x) % groups === 0;
  checkShapes('group_norm', ok, `x [B, H, W, C] with w and b [C], C in ${groups} groups`, x, w, b);
  const params = [groups, eps, options.silu ? 1 : 0];
  return scope(() => {
    const [y, stats] = run(Op.groupNorm, [x, w, b], [like(x), statistics(x, [x.shape[0]!, groups, 2])], params);
    differentiable('group_norm', [x, w, b], [y!], [x, stats, w, b], ([gy]) =>
      run(Op.groupNormBackward, [gy, x, stats, w, b], [like(x), like(w), like(b)], params),
    );
    return y!;
  });
}

/**
 * The statistics of `groupNorm`, for pictures that are normalised in parts.
 * @param x_BHWC [B, ..., C]
 * @returns [B, groups, 2]: mean and 1 / √(variance + eps)
 */
export function groupNormStats(x_BHWC: Tensor, groups: number, eps: number): Tensor {
  const x = x_BHWC;
  checkShapes(
    'group_norm_stats',
    isFloat(x) && x.rank >= 2 && groups >= 1 && channelsOf(x) % groups === 0,
    'x [B, H, W, C]',
    x,
  );
  refuseGradient('group_norm_stats', [x]);
  return run(Op.groupNormStats, [x], [statistics(x, [x.shape[0]!, groups, 2])], [groups, eps])[0]!;
}

/**
 * Normalises any part of a picture with the statistics of all of it: with `groupNormStats` the same, bit for bit, as `groupNorm`.
 * @param x_BHWC [B, ..., C]
 * @param stats [B, groups, 2] of `groupNormStats`
 * @param w [C]
 * @param b [C]
 */
export function groupNormApply(
  x_BHWC: Tensor,
  stats: Tensor,
  w: Tensor,
  b: Tensor,
  options: { readonly silu: boolean },
): Tensor {
  const x = x_BHWC;
  const groups = stats.shape[1] ?? 0;
  const told = stats.rank === 3 && sameShape(stats.shape, [x.shape[0]!, groups, 2]) && stats.dtype === statistic(x);
  const ok = x.rank >= 2 && told && isRow(w, x) && isRow(b, x) && groups >= 1 && channelsOf(x) % groups === 0;
  checkShapes('group_norm_apply', ok, 'x [B, H, W, C] with stats [B, groups, 2], w and b [C]', x, stats, w, b);
  refuseGradient('group_norm_apply', [x, w, b]);
  return run(Op.groupNormApply, [x, stats, w, b], [like(x)], [groups, options.silu ? 1 : 0])[0]!;
}

/**
 * Residual branch with a gate from the condition, `x + y · gate`.
 * @param x_BLC [B, ..., C]
 * @param y_BLC as `x_BLC`
 * @param gate_B1C one row a sample [B, 1, C], or one for all [1, 1, C]
 */
export function gatedAdd(x_BLC: Tensor, y_BLC: Tensor, gate_B1C: Tensor): Tensor {
  const same = sameShape(x_BLC.shape, y_BLC.shape);
  const ok = x_BLC.rank >= 2 && same && x_BLC.dtype === y_BLC.dtype && isModulation(gate_B1C, x_BLC);
  checkShapes('gated_add', ok, 'x and y [B, L, C] with gate [B, 1, C]', x_BLC, y_BLC, gate_B1C);
  const [out] = run(Op.gatedAdd, [x_BLC, y_BLC, gate_B1C], [like(x_BLC)]);
  differentiable('gated_add', [x_BLC, y_BLC, gate_B1C], [out!], [y_BLC, gate_B1C], ([g], need) => {
    if (!need[1] && !need[2]) return [g];
    const [gy, ggate] = run(Op.gatedAddBackward, [g, y_BLC, gate_B1C], [like(y_BLC), like(gate_B1C)]);
    return [g, gy, ggate];
  });
  return out!;
}
