/** Convolutions over channels-last pictures [B, H, W, C]; weights in the official order [O, C, kh, kw]; f32 or f64. */
import { InfinityError, invalidArgument } from '../errors.js';
import { type Shape, scope, type Tensor } from '../tensor.js';
import { checkShapes, sameShape } from './check.js';
import { convAlgorithm } from './conv_algorithm.js';
import { add } from './elementwise.js';
import { Op } from './generated.js';
import { packsWeights, unpackedWeight } from './packed.js';
import { differentiable, recordsGradient } from './record.js';
import { type OutputSpec, run, shaped, statistic } from './run.js';

/** Zeros around the picture: the same on every side, or each side named. */
export type Padding =
  | number
  | { readonly top: number; readonly left: number; readonly bottom: number; readonly right: number };

/** Where the kernel is applied, and what is added to its result. */
export interface ConvOptions {
  /** Pixels between two outputs, in both directions; 1 by default. */
  readonly stride?: number;
  /** 0 by default. */
  readonly padding?: Padding;
  /** A picture in the shape of the result. */
  readonly residual?: Tensor | undefined;
}

/** The group norm that follows a convolution. */
export interface NormAhead {
  readonly groups: number;
  readonly eps: number;
}

/** A picture [B, H, W, C] and, where the convolution that made it took them on the way, the statistics of its group norm [B, groups, 2]. */
export interface Measured {
  readonly picture: Tensor;
  readonly stats?: Tensor | undefined;
}

/** Largest kernel that the native side takes. */
const MAX_KERNEL = 8;
/** Every instruction set pads to at most this many columns. */
const PACKED_COLUMNS = 16;
/** Channels are packed in chunks of so many, or of four where there are no more. */
const PACKED_CHANNELS = 16;

/** Weights laid out for one kind of convolution, for inference: see `packConv` and `packUpsampleConv`. */
export class PackedConv {
  /** @internal */
  constructor(
    readonly packed: Tensor,
    /** Official shape [O, C, kh, kw]. */
    readonly shape: Shape,
    readonly upsample: boolean,
  ) {}
  get bytes(): number {
    return this.packed.bytes;
  }
  dispose(): void {
    this.packed.dispose();
  }
}

function pack(w: Tensor, upsample: boolean, dtype: 'f32' | 'bf16'): PackedConv {
  checkShapes('pack_conv2d', w.rank === 4 && (!upsample || isThreeByThree(w.shape)), 'weights [O, C, kh, kw]', w);
  if (!packsWeights(w)) return new PackedConv(unpackedWeight(w, dtype), w.shape, upsample);
  const [O, C, kh, kw] = w.shape as [number, number, number, number];
  const rows = Math.ceil(O / PACKED_COLUMNS) * PACKED_COLUMNS;
  const channels = C <= 4 ? 4 : Math.ceil(C / PACKED_CHANNELS) * PACKED_CHANNELS;
  const shape = upsample ? [4 * rows, 4 * channels] : [rows, channels * kh * kw];
  const op = upsample ? Op.packUpsampleConv2d : Op.packConv2d;
  const [packed] = run(op, [w], [{ dtype: w.dtype === 'f64' ? 'f64' : dtype, shape }]);
  return new PackedConv(packed!, w.shape, upsample);
}

/** Packs w [O, C, kh, kw] (f32, bf16 or f64) once for `conv2d`; 'bf16' halves the memory. The layout belongs to the device. */
export const packConv = (w: Tensor, options: { readonly dtype?: 'f32' | 'bf16' } = {}): PackedConv =>
  pack(w, false, options.dtype ?? 'f32');

/** Packs w [O, C, 3, 3] once for `upsampleConv2d`. */
export const packUpsampleConv = (w: Tensor, options: { readonly dtype?: 'f32' | 'bf16' } = {}): PackedConv =>
  pack(w, true, options.dtype ?? 'f32');

const isThreeByThree = (shape: Shape): boolean => shape[2] === 3 && shape[3] === 3;

function checkOperands(
  name: string,
  x: Tensor,
  w: Tensor | PackedConv,
  b: Tensor | null | undefined,
  upsample: boolean,
): { weight: Tensor; shape: Shape } {
  const packed = w instanceof PackedConv;
  const weight = packed ? w.packed : w;
  const fits =
    x.rank === 4 &&
    w.shape.length === 4 &&
    x.shape[3] === w.shape[1] &&
    (x.dtype === weight.dtype || (x.dtype === 'f32' && weight.dtype === 'bf16')) &&
    (!packed || w.upsample === upsample) &&
    (!upsample || isThreeByThree(w.shape));
  const expected = `x [B, H, W, C] and ${packed ? 'packed ' : ''}weights ${upsample ? '[O, C, 3, 3]' : '[O, C, kh, kw]'}`;
  checkShapes(name, fits, expected, x, weight);
  const biased = !b || (b.rank === 1 && b.size === w.shape[0] && (b.dtype === x.dtype || b.dtype === statistic(x)));
  checkShapes(name, biased, `a bias [${w.shape[0]}]`, b);
  if ((packed || weight.dtype !== x.dtype) && recordsGradient(x, weight, b))
    throw new InfinityError(
      'NOT_DIFFERENTIABLE',
      `${name} with packed or bf16 weights has no gradient, and one was required.`,
      {
        value: packed ? 'packed' : 'bf16',
        cure: 'Train with f32 weights [O, C, kh, kw].',
      },
    );
  return { weight, shape: w.shape };
}

const parameterGradients = (weight: Tensor, shape: Shape): OutputSpec[] =>
  [shape, [shape[0]!]].map((extents) => ({ dtype: statistic(weight), shape: extents }));

function sides(padding: Padding): { top: number; left: number; bottom: number; right: number } {
  if (typeof padding === 'number') return { top: padding, left: padding, bottom: padding, right: padding };
  return padding;
}

/** What a command of a convolution is made of. */
function planConv2d(x: Tensor, w: Tensor | PackedConv, b: Tensor | null | undefined, options: ConvOptions) {
  const { stride = 1, padding = 0, residual } = options;
  const { weight, shape } = checkOperands('conv2d', x, w, b, false);
  const [O, , kh, kw] = shape as [number, number, number, number];
  const { top, left, bottom, right } = sides(padding);
  if (!Number.isInteger(stride) || stride < 1) invalidArgument('stride', 'a positive integer', stride);
  if (![top, left, bottom, right].every((n) => Number.isInteger(n) && n >= 0))
    invalidArgument('padding', 'whole numbers of pixels, zero or more', padding);
  const [B, H, W] = x.shape as [number, number, number];
  const OH = Math.floor((H + top + bottom - kh) / stride) + 1;
  const OW = Math.floor((W + left + right - kw) / stride) + 1;
  checkShapes(
    'conv2d',
    OH > 0 && OW > 0 && kh <= MAX_KERNEL && kw <= MAX_KERNEL,
    `a kernel that fits in the picture and in 8 x 8`,
    x,
    weight,
  );
  const yShape = [B, OH, OW, O];
  const addable = !residual || (residual.dtype === x.dtype && sameShape(residual.shape, yShape));
  checkShapes('conv2d', addable, `a residual [${yShape.join(', ')}]`, residual);
  return { weight, shape, yShape, params: [kh, kw, stride, top, left], top, left, residual };
}

/** Kernels of a card finish more with a sum than its bias. What is composed instead has a gradient, and is the definition. */
const finishesMore = (weight: Tensor, ...operands: (Tensor | null | undefined)[]): boolean =>
  !packsWeights(weight) && !recordsGradient(weight, ...operands);

/**
 * Cross-correlation, as the official `nn.Conv2d`: y[b, i, j, o] = b[o] + Σ w[o, c, u, v] · x[b, i·stride + u − top, j·stride + v − left, c].
 * A picture gives the same bits alone and in any batch. With packed weights large pictures are computed with fewer
 * multiplications (see `convAlgorithm`), which rounds differently from the unpacked kernel.
 * @param x [B, H, W, C], f32 or f64; on a card also bf16, with gradients of parameters in f32
 * @param w [O, C, kh, kw], kernels up to 8 × 8 in the type of x (or bf16 beside f32, without gradient), or packed by `packConv`
 * @param b [O], or nothing
 * @param options.residual is added last; on a card before the result is rounded
 * @returns [B, OH, OW, O] with OH = ⌊(H + top + bottom − kh) / stride⌋ + 1
 * @throws InfinityError INVALID_SHAPE, INVALID_ARGUMENT; NOT_DIFFERENTIABLE for packed weights under a recording tape
 */
export function conv2d(x: Tensor, w: Tensor | PackedConv, b?: Tensor | null, options: ConvOptions = {}): Tensor {
  const { weight, shape, yShape, params, top, left, residual } = planConv2d(x, w, b, options);
  if (residual) {
    if (finishesMore(weight, x, b, residual))
      return run(Op.conv2dAdd, [x, weight, b, residual], [shaped(x, yShape)], params)[0]!;
    return scope(() => add(conv2d(x, w, b, { ...options, residual: undefined }), residual));
  }
  if (w instanceof PackedConv && packsWeights(weight)) {
    const form = isThreeByThree(shape) && params[2] === 1 ? '3x3' : 'other';
    return convAlgorithm({ form, width: x.shape[2]!, inChannels: shape[1]! }) === 'winograd'
      ? run(Op.conv2dWinograd, [x, weight, b], [shaped(x, yShape)], [top, left])[0]!
      : run(Op.conv2dPacked, [x, weight, b], [shaped(x, yShape)], params)[0]!;
  }
  const [y] = run(Op.conv2d, [x, weight, b], [shaped(x, yShape)], params);
  differentiable('conv2d', [x, weight, b], [y!], [x, weight], ([gy], need) => {
    const dx = need[0] ? run(Op.conv2dBackwardInput, [gy!, weight], [shaped(x, x.shape)], params)[0]! : null;
    if (!need[1] && !need[2]) return [dx];
    const [dw, db] = run(Op.conv2dBackwardWeight, [gy!, x], parameterGradients(weight, shape), params);
    return [dx, dw!, db!];
  });
  return y!;
}

function statsOf(op: string, y: Shape, { groups }: NormAhead, x: Tensor): OutputSpec {
  const divides = Number.isInteger(groups) && groups >= 1 && y[3]! % groups === 0;
  checkShapes(op, divides, `a result whose ${y[3]} channels are ${groups} groups`, x);
  return { dtype: statistic(x), shape: [y[0]!, groups, 2] };
}

/**
 * `conv2d` with the statistics of the group norm that follows: what `groupNormStats` would read the picture for. A card takes
 * them while the result is at hand; the processor, and a tape, leave them to the norm. A picture has the same statistics, to
 * the last bit, in any batch.
 * @throws InfinityError as `conv2d`; INVALID_SHAPE where the groups do not divide the channels
 */
export function conv2dStats(
  x: Tensor,
  w: Tensor | PackedConv,
  b: Tensor | null | undefined,
  norm: NormAhead,
  options: ConvOptions = {},
): Measured {
  const { weight, yShape, params, residual } = planConv2d(x, w, b, options);
  const measured = statsOf('conv2d_stats', yShape, norm, x);
  if (!finishesMore(weight, x, b, residual)) return { picture: conv2d(x, w, b, options) };
  const operands = [x, weight, b, residual];
  const [picture, stats] = run(
    Op.conv2dStats,
    operands,
    [shaped(x, yShape), measured],
    [...params, norm.groups, norm.eps],
  );
  return { picture: picture!, stats };
}

/**
 * Nearest-neighbour upsampling by two followed by a 3 × 3 convolution with one zero around, as the official decoder's
 * Upsample block, without the large intermediate and with 4/9 of the arithmetic.
 * @param x [B, H, W, C], f32 or f64; on a card also bf16, with gradients of parameters in f32
 * @param w [O, C, 3, 3] in the type of x (or bf16 beside f32, without gradient), or packed by `packUpsampleConv`
 * @param b [O], or nothing
 * @returns [B, 2H, 2W, O]
 * @throws InfinityError INVALID_SHAPE; NOT_DIFFERENTIABLE for packed weights under a recording tape
 */
export function upsampleConv2d(x: Tensor, w: Tensor | PackedConv, b?: Tensor | null): Tensor {
  const { weight, shape } = checkOperands('upsample_conv2d', x, w, b, true);
  const [B, H, W] = x.shape as [number, number, number];
  const [O, inChannels] = shape as [number, number];
  const yShape = [B, 2 * H, 2 * W, O];
  if (w instanceof PackedConv && packsWeights(weight)) {
    const algorithm = convAlgorithm({ form: 'upsample', width: W, inChannels });
    const op = algorithm === 'winograd' ? Op.upsampleConv2dWinograd : Op.upsampleConv2dPacked;
    return run(op, [x, weight, b], [shaped(x, yShape)])[0]!;
  }
  const [y] = run(Op.upsampleConv2d, [x, weight, b], [shaped(x, yShape)]);
  differentiable('upsample_conv2d', [x, weight, b], [y!], [x, weight], ([gy], need) => {
    const dx = need[0] ? run(Op.upsampleConv2dBackwardInput, [gy!, weight], [shaped(x, x.shape)])[0]! : null;
    if (!need[1] && !need[2]) return [dx];
    const [dw, db] = run(Op.upsampleConv2dBackwardWeight, [gy!, x], parameterGradients(weight, shape));
    return [dx, dw!, db!];
  });
  return y!;
}

/**
 * `upsampleConv2d` with the statistics of the group norm that follows, as `conv2dStats`.
 * @throws InfinityError as `upsampleConv2d`; INVALID_SHAPE where the groups do not divide the channels
 */
export function upsampleConv2dStats(
  x: Tensor,
  w: Tensor | PackedConv,
  b: Tensor | null | undefined,
  norm: NormAhead,
): Measured {
  const { weight, shape } = checkOperands('upsample_conv2d', x, w, b, true);
  const [B, H, W] = x.shape as [number, number, number];
  const yShape = [B, 2 * H, 2 * W, shape[0]!];
  const measured = statsOf('upsample_conv2d_stats', yShape, norm, x);
  if (!finishesMore(weight, x, b)) return { picture: upsampleConv2d(x, w, b) };
  const outputs = [shaped(x, yShape), measured];
  const [picture, stats] = run(Op.upsampleConv2dStats, [x, weight, b], outputs, [norm.groups, norm.eps]);
  return { picture: picture!, stats };
}
