/** Linear layers. Weights keep the official layout [out, in]; f32 (products in f32), f64, or bf16 on a card. */
import { InfinityError } from '../errors.js';
import type { Tensor } from '../tensor.js';
import { checkShapes, isFloat, sameShape } from './check.js';
import { add, gelu, mul } from './elementwise.js';
import { Op } from './generated.js';
import { packsWeights, unpackedWeight } from './packed.js';
import { differentiable, recordsGradient } from './record.js';
import { run, shaped, statistic } from './run.js';

/**
 * What happens to a sum while it is still in a register: GELU (tanh form), or `residual + gate · y`. The gate has y's rank
 * and leading extents, then ones, then the features: [B, 1, N] serves all L rows of y [B, L, N].
 */
export type Epilogue = { readonly gelu: true } | { readonly residual: Tensor; readonly gate?: Tensor };

/** Every instruction set pads to at most this many columns. */
const PACKED_COLUMNS = 16;

/** Weights laid out for the product, for inference: see `packLinear`. */
export class PackedWeight {
  /** @internal */
  constructor(
    readonly packed: Tensor,
    readonly out: number,
    readonly inputs: number,
  ) {}
  get bytes(): number {
    return this.packed.bytes;
  }
  dispose(): void {
    this.packed.dispose();
  }
}

/**
 * Packs w [N, K] (f32, bf16 or f64) once, so that products read it in order: a batch of few rows is several times faster
 * than from [N, K]. `dtype: 'bf16'` halves the memory and rounds the weights; products stay in f32. The layout belongs
 * to the device. Not differentiable.
 */
export function packLinear(w: Tensor, options: { readonly dtype?: 'f32' | 'bf16' } = {}): PackedWeight {
  checkShapes('pack_linear', w.rank === 2 && (isFloat(w) || w.dtype === 'bf16'), 'weights [out, in]', w);
  const [out, inputs] = w.shape as [number, number];
  if (!packsWeights(w)) return new PackedWeight(unpackedWeight(w, options.dtype ?? 'f32'), out, inputs);
  const dtype = w.dtype === 'f64' ? 'f64' : (options.dtype ?? 'f32');
  const shape = [Math.ceil(out / PACKED_COLUMNS) * PACKED_COLUMNS, inputs];
  return new PackedWeight(run(Op.packLinear, [w], [{ dtype, shape }])[0]!, out, inputs);
}

/**
 * y = x·wᵀ + b, with an optional epilogue. The order of a sum depends on its length alone: a row gives the same bits
 * alone and in any batch.
 * @param x [..., K], f32 or f64; on a card also bf16, with gradients of parameters in f32
 * @param w [N, K] in the type of x (or bf16 beside f32, without gradient), or packed weights
 * @param b [N] in the type of x, or f32 beside bf16; or nothing
 * @returns [..., N]
 * @throws InfinityError INVALID_SHAPE; NOT_DIFFERENTIABLE when packed weights, or bf16 ones beside f32, meet a recording tape
 */
export function linear(x: Tensor, w: Tensor | PackedWeight, b?: Tensor | null, epilogue?: Epilogue): Tensor {
  const packed = w instanceof PackedWeight;
  const [out, inputs] = packed ? [w.out, w.inputs] : [w.shape[0] ?? 0, w.shape[1] ?? 0];
  const weight = packed ? w.packed : w;
  checkShapes(
    'linear',
    x.rank >= 1 && (packed || w.rank === 2) && x.shape[x.rank - 1] === inputs && sameKind(x, weight),
    `x [..., ${inputs}] and weights [${out}, ${inputs}]`,
    x,
    weight,
  );
  const biased = !b || (b.rank === 1 && b.size === out && (b.dtype === x.dtype || b.dtype === statistic(x)));
  checkShapes('linear', biased, `a bias [${out}]`, b);
  const residual = epilogue && 'residual' in epilogue ? epilogue.residual : undefined;
  const gate = epilogue && 'residual' in epilogue ? epilogue.gate : undefined;
  const applyGelu = epilogue !== undefined && 'gelu' in epilogue;
  const shape = [...x.shape.slice(0, -1), out];
  if (residual) {
    checkShapes('linear', sameShape(residual.shape, shape), `a residual [${shape.join(', ')}]`, residual);
    checkShapes(
      'linear',
      !gate || gateFits(gate, shape),
      `a gate that repeats over rows of [${shape.join(', ')}]`,
      gate,
    );
  }
  if (epilogue && recordsGradient(x, weight, b, residual, gate)) {
    const y = linear(x, w, b);
    if (!residual) return gelu(y);
    return add(residual, gate ? mul(y, gate) : y);
  }
  const operands = [x, weight, b, residual, gate];
  if (packed) {
    if (recordsGradient(x, b)) refuseWithoutGradient('packed');
    if (!packsWeights(weight)) return run(Op.linear, operands, [shaped(x, shape)], [Number(applyGelu)])[0]!;
    return run(Op.linearPacked, operands, [shaped(x, shape)], [out, Number(applyGelu)])[0]!;
  }
  const [y] = run(Op.linear, operands, [shaped(x, shape)], [Number(applyGelu)]);
  if (weight.dtype !== x.dtype) {
    if (recordsGradient(x, w, b)) refuseWithoutGradient('bf16');
    return y!;
  }
  differentiable('linear', [x, w, b], [y!], [x, w], ([gy], need) => linearGradients(gy!, x, w, need));
  return y!;
}

/** Gradients of x, w and the bias from that of x·wᵀ + b, as far as they are needed. */
export function linearGradients(
  gy: Tensor,
  x: Tensor,
  w: Tensor,
  need: readonly boolean[],
): readonly (Tensor | null)[] {
  const dx = need[0] ? run(Op.linearBackwardInput, [gy, w], [shaped(x, x.shape)])[0]! : null;
  if (!need[1] && !need[2]) return [dx];
  const dtype = statistic(w);
  const parameters = [w.shape, [w.shape[0]!]].map((shape) => ({ dtype, shape }));
  const [dw, db] = run(Op.linearBackwardWeight, [gy, x], parameters);
  return [dx, dw!, db!];
}

function sameKind(x: Tensor, w: Tensor): boolean {
  return x.dtype === w.dtype || (x.dtype === 'f32' && w.dtype === 'bf16');
}

/** Leading extents of y, then ones, then the features. */
export function gateFits(gate: Tensor, shape: readonly number[]): boolean {
  const { shape: g } = gate;
  if (g.length !== shape.length || g[g.length - 1] !== shape[shape.length - 1]) return false;
  let axis = 0;
  while (axis < g.length - 1 && g[axis] === shape[axis]) axis++;
  return g.slice(axis, -1).every((n) => n === 1);
}

function refuseWithoutGradient(kind: string): never {
  throw new InfinityError(
    'NOT_DIFFERENTIABLE',
    `A linear layer with ${kind} weights has no gradient, and one was required.`,
    {
      value: kind,
      cure: 'Train with f32 weights [out, in].',
    },
  );
}
