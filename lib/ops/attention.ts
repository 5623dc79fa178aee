/** Attention, the preparation of its operands, and the key-value cache. Rows are [B, L, C], heads adjacent in C. */
import { invalidArgument } from '../errors.js';
import { scope, type Tensor } from '../tensor.js';
import { checkShapes, sameShape } from './check.js';
import { Op } from './generated.js';
import { differentiable } from './record.js';
import { like, run, shaped } from './run.js';
import { writeSlice } from './shape.js';

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

/** Which keys a query sees, and how scores are scaled. */
export interface AttentionOptions {
  readonly heads: number;
  /** Factor of q·k: 1 after cosine preparation, 1/√c otherwise, 1 in T5. */
  readonly scale: number;
  /** i32 [1|B, 1|Lq, 2]: query (b, i) sees the keys [start, end) of its entry of k; null shows all. */
  readonly range?: Tensor | null;
  /** Added to the scores, [H, Lq, Lk]. */
  readonly bias?: Tensor | null;
}

/**
 * Splits the rows of a fused projection into q, k and v, and prepares q and k: l2 normalisation, `q · exp(min(gain, ln 100))`,
 * then rotation of adjacent channel pairs (Infinity, infinity/models/basic.py, SelfAttention).
 * @param qkv_BL3C [B, L, 3·C], C = heads · c
 * @returns q, k and v, each [B, L, C]
 */
export function qkvPrep(qkv_BL3C: Tensor, options: QkvPrepOptions): [q: Tensor, k: Tensor, v: Tensor] {
  const { heads, gain, rope, ropeStart, cosine } = options;
  const x = qkv_BL3C;
  const [batch, length, width] = x.shape;
  checkShapes('qkv_prep', x.rank === 3 && width! % (3 * heads) === 0, `qkv [B, L, 3·${heads}·c]`, x);
  const gained = !gain || (gain.size === heads && (gain.dtype === x.dtype || gain.dtype === 'f32'));
  checkShapes('qkv_prep', gained, `a gain of ${heads} heads`, gain);
  const pairs = width! / (6 * heads);
  if (!Number.isInteger(ropeStart) || ropeStart < 0)
    invalidArgument('ropeStart', 'a row number', ropeStart, 'Give the number of tokens before the first.');
  const turns = !rope || (rope.rank === 3 && rope.shape[1] === pairs && rope.shape[2] === 2);
  const reaches = !rope || ropeStart + length! <= rope.shape[0]!;
  const typed = !rope || rope.dtype === x.dtype || rope.dtype === 'f32';
  checkShapes('qkv_prep', turns && reaches && typed, `rope [≥ ${ropeStart + length!}, ${pairs}, 2]`, rope);

  const part = shaped(x, [batch!, length!, width! / 3]);
  const params = [heads, ropeStart, cosine ? 1 : 0];
  const [q, k, v] = run(Op.qkvPrep, [x, gain, rope], [part, part, part], params);
  differentiable('qkv_prep', [x, gain], [q!, k!, v!], [x, gain, rope], ([gq, gk, gv], need) => {
    const inputs = [gq, gk, gv, x, gain, rope];
    return gain && need[1]
      ? run(Op.qkvPrepGainBackward, inputs, [like(x), like(gain)], params)
      : run(Op.qkvPrepBackward, inputs, [like(x)], params);
  });
  return [q!, k!, v!];
}

/**
 * softmax(scale · q·kᵀ + bias) · v for each head, over the keys that `range` shows. A query that sees no key gets zeros.
 * A result depends on the query and its keys in their order alone, bit for bit: not on the batch, not on where in a
 * packed buffer or cache the keys lie.
 * @param q_BLC [B, Lq, C]
 * @param k_BLC [B, Lk, C], or [1, Lk, C] when all samples read the same rows: packed texts, told apart by `range`
 * @param v_BLC as `k_BLC`
 * @returns [B, Lq, C]
 * @throws InfinityError INVALID_SHAPE; INVALID_ARGUMENT (on reading) when a range leaves the rows of k
 */
export function attention(q_BLC: Tensor, k_BLC: Tensor, v_BLC: Tensor, options: AttentionOptions): Tensor {
  const { heads, scale, range = null, bias = null } = options;
  const [q, k, v] = [q_BLC, k_BLC, v_BLC];
  const [batch, queries, channels] = q.shape;
  const keys = k.shape[1];
  const sameType = k.dtype === q.dtype && v.dtype === q.dtype;
  const sameRows = k.rank === 3 && sameShape(k.shape, v.shape);
  const ok = q.rank === 3 && sameType && sameRows && k.shape[2] === channels && channels! % heads === 0;
  const entries = ok && (k.shape[0] === batch || k.shape[0] === 1);
  checkShapes('attention', entries, `q [B, Lq, ${heads}·c] with k and v [B or 1, Lk, ${heads}·c]`, q, k, v);
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

  const params = [heads, scale];
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

/**
 * Writes `rows_BLC` into the cache from row `at` on, in place. Not differentiable: caches serve inference.
 * @param cache_BLmaxC [B, Lmax, C]
 * @param rows_BLC [B, n, C], at + n ≤ Lmax
 */
export function kvAppend(cache_BLmaxC: Tensor, rows_BLC: Tensor, at: number): void {
  const [cache, rows] = [cache_BLmaxC, rows_BLC];
  const fits =
    cache.rank === 3 && rows.rank === 3 && cache.shape[0] === rows.shape[0] && cache.shape[2] === rows.shape[2];
  checkShapes('kv_append', fits && cache.dtype === rows.dtype, 'a cache [B, Lmax, C] with rows [B, n, C]', cache, rows);
  const room = cache.shape[1]! - rows.shape[1]!;
  if (!Number.isInteger(at) || at < 0 || at > room)
    invalidArgument('at', `a row from 0 to ${room}`, at, 'Make the cache as long as the schedule has tokens.');
  writeSlice(cache, rows, 1, at);
}
