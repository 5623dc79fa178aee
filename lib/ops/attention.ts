/** Attention, and the preparation of its operands. Rows are [B, L, C], heads adjacent in C. */
import { invalidArgument } from '../errors.js';
import { type DType, type Shape, scope, type Tensor } from '../tensor.js';
import { checkShapes, sameShape } from './check.js';
import { Op } from './generated.js';
import { differentiable, refuseGradient } from './record.js';
import { like, run } from './run.js';

/** How queries and keys are prepared. */
export interface QkvPrepOptions {
  readonly heads: number;
  /** Logarithm of each head's gain on q, H elements (the official `scale_mul`); null for none. */
  readonly gain: Tensor | null;
  /** Cosine and sine of every pair of channels of every token, [rows, c/2, 2]; null for no rotation. */
  readonly rope: Tensor | null;
  /** Row of `rope` that belongs to the first token. */
  readonly ropeStart: number;
  /** Brings q and k to length 1 (eps 1e-12) before gain and rotation. */
  readonly cosine: boolean;
}

/** Rows of keys and values of many tokens, and where in them those of a call lie. */
export interface KvRows {
  readonly k_1NC: Tensor;
  readonly v_1NC: Tensor;
  /** Row of the first token of the first sample. */
  readonly start: number;
  /** Rows from there to the first token of the next sample; at least the number of tokens. */
  readonly sampleStride: number;
}

/** Which keys a query sees, and how scores are scaled. */
export interface AttentionOptions {
  readonly heads: number;
  /** Factor of q·k: 1 after cosine preparation, 1/√c otherwise, 1 in T5. */
  readonly scale: number;
  /** i32 [1|B, 1|Lq, 2]: query (b, i) sees the keys [start, end) of its entry of k; null shows all. */
  readonly range?: Tensor | null;
  /** Added to the scores, [H, Lq, Lk]. */
  readonly bias?: Tensor | null;
  /**
   * Rows from the first key of a sample to that of the next, where k and v are [1, N, C] and each sample reads
   * Lk = N − (B − 1) · sampleStride rows of its own. By default samples lie one behind the other or, with k and v [1, Lk, C],
   * read the same rows.
   */
  readonly sampleStride?: number | undefined;
  /**
   * No key is longer than 1, but for rounding, as after cosine preparation: a kernel may then take weights without a running
   * maximum. Values must stay below 2^39. Default false.
   */
  readonly unitKeys?: boolean | undefined;
}

/** Checks what is prepared. @returns inputs, shape of each part and parameters of the op */
function prepOperands(
  op: string,
  x: Tensor,
  { heads, gain, rope, ropeStart, cosine }: QkvPrepOptions,
): { inputs: (Tensor | null)[]; part: { dtype: DType; shape: Shape }; params: number[] } {
  const [batch, length, width] = x.shape;
  checkShapes(op, x.rank === 3 && width! % (3 * heads) === 0, `qkv [B, L, 3·${heads}·c]`, x);
  const gained = !gain || (gain.size === heads && (gain.dtype === x.dtype || gain.dtype === 'f32'));
  checkShapes(op, gained, `a gain of ${heads} heads`, gain);
  const pairs = width! / (6 * heads);
  if (!Number.isInteger(ropeStart) || ropeStart < 0)
    invalidArgument('ropeStart', 'a row number', ropeStart, 'Give the number of tokens before the first.');
  const turns = !rope || (rope.rank === 3 && rope.shape[1] === pairs && rope.shape[2] === 2);
  const reaches = !rope || ropeStart + length! <= rope.shape[0]!;
  const typed = !rope || rope.dtype === x.dtype || rope.dtype === 'f32';
  checkShapes(op, turns && reaches && typed, `rope [≥ ${ropeStart + length!}, ${pairs}, 2]`, rope);
  const part = { dtype: x.dtype, shape: [batch!, length!, width! / 3] };
  return { inputs: [x, gain, rope], part, params: [heads, ropeStart, cosine ? 1 : 0] };
}

/**
 * Splits the rows of a fused projection into q, k and v, and prepares q and k: l2 normalisation, `q · exp(min(gain, ln 100))`,
 * then rotation of adjacent channel pairs (Infinity, infinity/models/basic.py, SelfAttention).
 * @param qkv_BL3C [B, L, 3·C], C = heads · c
 * @returns q, k and v, each [B, L, C]
 */
export function qkvPrep(qkv_BL3C: Tensor, options: QkvPrepOptions): [q: Tensor, k: Tensor, v: Tensor] {
  const [x, gain] = [qkv_BL3C, options.gain];
  const { inputs, part, params } = prepOperands('qkv_prep', x, options);
  const [q, k, v] = run(Op.qkvPrep, inputs, [part, part, part], params);
  differentiable('qkv_prep', [x, gain], [q!, k!, v!], inputs, (grads, need) =>
    gain && need[1]
      ? run(Op.qkvPrepGainBackward, [...grads, ...inputs], [like(x), like(gain)], params)
      : run(Op.qkvPrepBackward, [...grads, ...inputs], [like(x)], params),
  );
  return [q!, k!, v!];
}

/**
 * As `qkvPrep`, but k and v go to their rows of `into`, in place: what a cache holds is never made anywhere else. Not
 * differentiable: caches serve inference.
 * @param qkv_BL3C [B, L, 3·C]
 * @returns q, [B, L, C]
 * @throws InfinityError INVALID_SHAPE; INVALID_ARGUMENT when rows of `into` lie outside it; NOT_DIFFERENTIABLE
 */
export function qkvAppend(qkv_BL3C: Tensor, into: KvRows, options: QkvPrepOptions): Tensor {
  const { k_1NC: k, v_1NC: v, start, sampleStride } = into;
  const { inputs, part, params } = prepOperands('qkv_append', qkv_BL3C, options);
  const [batch, length, C] = part.shape as [number, number, number];
  const fits = [k, v].every((t) => t.rank === 3 && t.shape[0] === 1 && t.shape[2] === C && t.dtype === part.dtype);
  checkShapes('qkv_append', fits && k.size === v.size, `keys and values [1, N, ${C}] of ${part.dtype}`, k, v);
  const cure = 'Make the cache as long as the schedule has tokens.';
  if (!Number.isInteger(sampleStride) || sampleStride < length)
    invalidArgument('sampleStride', `at least the ${length} rows of a sample`, sampleStride, cure);
  const last = k.shape[1]! - (batch - 1) * sampleStride - length;
  if (!Number.isInteger(start) || start < 0 || start > last)
    invalidArgument('start', `a row from 0 to ${last}`, start, cure);
  refuseGradient('qkv_append', [qkv_BL3C, options.gain]);
  return run(Op.qkvAppend, inputs, [part, k, v], [...params, start, sampleStride])[0]!;
}

/**
 * softmax(scale · q·kᵀ + bias) · v for each head, over the keys that `range` shows. A query that sees no key gets zeros.
 * A result depends on the query and its keys in their order alone, bit for bit: not on the batch, not on where in a
 * packed buffer or cache the keys lie.
 * @param q_BLC [B, Lq, C]
 * @param k_BLC [B, Lk, C]; [1, Lk, C] when all samples read the same rows: packed texts, told apart by `range`; or rows of a
 *   cache, see `sampleStride` (not differentiable)
 * @param v_BLC as `k_BLC`
 * @returns [B, Lq, C]
 * @throws InfinityError INVALID_SHAPE; INVALID_ARGUMENT (on reading) when a range leaves the rows of k
 */
export function attention(q_BLC: Tensor, k_BLC: Tensor, v_BLC: Tensor, options: AttentionOptions): Tensor {
  const { heads, scale, range = null, bias = null, sampleStride, unitKeys = false } = options;
  const [q, k, v] = [q_BLC, k_BLC, v_BLC];
  const [batch, queries, channels] = q.shape;
  const cached = sampleStride !== undefined;
  const keys = cached ? k.shape[1]! - (batch! - 1) * sampleStride : k.shape[1]!;
  const sameType = k.dtype === q.dtype && v.dtype === q.dtype;
  const sameRows = k.rank === 3 && sameShape(k.shape, v.shape);
  const ok = q.rank === 3 && sameType && sameRows && k.shape[2] === channels && channels! % heads === 0;
  const entries = ok && ((k.shape[0] === batch && !cached) || k.shape[0] === 1);
  checkShapes('attention', entries, `q [B, Lq, ${heads}·c] with k and v [B or 1, Lk, ${heads}·c]`, q, k, v);
  if (cached) {
    if (!Number.isInteger(sampleStride) || sampleStride < 0 || keys < 1)
      invalidArgument('sampleStride', `rows that ${batch} samples have in [1, ${k.shape[1]}, C]`, sampleStride);
    refuseGradient('attention over a cache', [q, k, v, bias]);
  }
  const repeats = (n: number | undefined, extent: number): boolean => n === 1 || n === extent;
  const rangeFits =
    !range ||
    (range.dtype === 'i32' &&
      range.rank === 3 &&
      repeats(range.shape[0], batch!) &&
      repeats(range.shape[1], queries!) &&
      range.shape[2] === 2);
  checkShapes('attention', rangeFits, `an i32 range [1 or ${batch}, 1 or ${queries}, 2]`, range);
  const biasFits =
    !bias ||
    (bias.dtype === q.dtype &&
      bias.rank === 3 &&
      bias.shape[0] === heads &&
      bias.shape[1] === queries &&
      bias.shape[2] === keys);
  checkShapes('attention', biasFits, `a bias [${heads}, ${queries}, ${keys}]`, bias);

  const params = [heads, scale, sampleStride ?? (k.shape[0] === batch ? keys : 0), unitKeys ? 1 : 0];
  return scope(() => {
    const lseOutput = { dtype: q.dtype === 'bf16' ? 'f32' : q.dtype, shape: [batch!, heads, queries!] } as const;
    const [o, lse] = run(Op.attention, [q, k, v, range, bias], [like(q), lseOutput], params);
    differentiable('attention', [q, k, v, bias], [o!], [q, k, v, o!, lse, range, bias], ([go]) =>
      bias
        ? run(
            Op.attentionBiasBackward,
            [go, q, k, v, o, lse, range, bias],
            [like(q), like(k), like(v), like(bias)],
            params,
          )
        : run(Op.attentionBackward, [go, q, k, v, o, lse, range], [like(q), like(k), like(v)], params),
    );
    return o!;
  });
}
