/**
 * Multi-scale residual quantisation (BSQ and LFQ) with self-correction in one pass a channel plane: the plain options of the
 * tokenizer, without gradient. `MultiScaleQuantizer` is the composed definition. Sources: Infinity,
 * infinity/models/bsq_vae/multiscale_bsq.py, infinity/models/bitwise_self_correction.py (flip_requant).
 */
import { invalidArgument } from '../errors.js';
import { RandomStream } from '../philox.js';
import { scope, sizeOf, Tensor } from '../tensor.js';
import { packedBytes } from './bits.js';
import { checkShapes, isFloat } from './check.js';
import { Op } from './generated.js';
import { refuseGradient } from './record.js';
import { type OutputSpec, run, shaped, statistic } from './run.js';

/** Which bits are inverted, and whether the running sum sees it. */
export interface MultiscaleNoise {
  /** For every scale the probability that a bit is inverted. */
  readonly strengths: readonly number[];
  /** Uniform numbers [B, L, d] over the latent positions of all scales, or Philox keys i32 [B, 3]. */
  readonly draws: Tensor | { readonly keys: Tensor };
  /** Inverted bits enter the running sum, so that the labels of later scales repair them. */
  readonly requant: boolean;
}

/** Noise, layout, and whether to tell what was quantised. */
export interface MultiscaleOptions {
  readonly noise?: MultiscaleNoise | undefined;
  /** Labels and inputs leave as 2 x 2 blocks of latent positions, channel 4c + 2dy + dx; all grids must be even. */
  readonly patchify?: boolean;
  /** Also returns what was quantised and the inverted bits. */
  readonly trace?: boolean;
  /** Of a code element, rounded to f32: LFQ's. By default that of BSQ, 1 / sqrt(d). */
  readonly magnitude?: number | undefined;
  /** Type of the inputs, by default that of the features: a card rounds them to bf16 as it writes them. */
  readonly inputs?: 'bf16' | undefined;
}

/** Labels, inputs and sum of a batch; D bits of a token are P = ceil(D / 8) bytes. */
export interface MultiscaleResult {
  /** Labels of all scales, packed u8 [B, L, P] (`unpackBits` of D bits): those of the residual before they are inverted. */
  readonly labels_BLP: Tensor;
  /** The running sum on the grid of each scale but the first (linear, not antialiased), or null for a single scale. */
  readonly inputs_BLD: Tensor | null;
  /** Sum of the codes after the last scale. */
  readonly sum_BHWd: Tensor;
  /** Over latent positions, never patchified. */
  readonly trace?: { readonly residual_BLd: Tensor; readonly noisy_BLd: Tensor };
}

/**
 * @param features_BHWd f32 or f64
 * @param grids rows and columns of each scale on the latent grid, coarse to fine, none above H x W
 * @throws InfinityError INVALID_ARGUMENT, INVALID_SHAPE; NOT_DIFFERENTIABLE
 */
export function multiscaleResidual(
  features_BHWd: Tensor,
  grids: readonly (readonly [h: number, w: number])[],
  options: MultiscaleOptions = {},
): MultiscaleResult {
  const { noise, patchify = false, trace = false, magnitude, inputs: rounded } = options;
  const [B = 0, H = 0, W = 0, d = 0] = features_BHWd.shape;
  const { device } = features_BHWd;
  checkShapes(
    'multiscale_residual',
    features_BHWd.rank === 4 && isFloat(features_BHWd),
    'features [B, H, W, d]',
    features_BHWd,
  );
  const step = patchify ? 2 : 1;
  const fits = (n: number, most: number): boolean => Number.isInteger(n) && n >= 1 && n <= most && n % step === 0;
  if (grids.length === 0 || !grids.every(([h, w]) => fits(h, H) && fits(w, W)))
    invalidArgument('grids', `${patchify ? 'even ' : ''}extents from 1 to ${H} x ${W}`, grids);
  if (magnitude !== undefined && !(magnitude > 0 && Number.isFinite(Math.fround(magnitude))))
    invalidArgument('magnitude', 'a positive number', magnitude);
  refuseGradient('multiscale_residual', [features_BHWd]);
  const positions = grids.map(([h, w]) => h * w);
  const L = positions.reduce((sum, n) => sum + n, 0);
  const { strengths, draws, requant } = noise ?? { strengths: undefined, draws: undefined, requant: false };
  if (strengths && !(strengths.length === grids.length && strengths.every((s) => s >= 0 && s <= 1)))
    invalidArgument('strengths', `${grids.length} probabilities`, strengths);
  const recorded = draws instanceof Tensor ? draws : undefined;
  const keys = draws && !(draws instanceof Tensor) ? draws.keys : undefined;
  checkShapes(
    'multiscale_residual',
    !recorded || recorded.size === sizeOf([B, L, d]),
    `draws [${B}, ${L}, ${d}]`,
    recorded,
  );
  checkShapes('multiscale_residual', !keys || (keys.dtype === 'i32' && keys.size === 3 * B), 'keys i32 [B, 3]', keys);
  const [tokens, width] = [L / step ** 2, d * step ** 2];
  const later = tokens - positions[0]! / step ** 2;
  // Outputs that are not asked for shrink to one element that nothing writes.
  const unless = (given: boolean, spec: OutputSpec): OutputSpec => (given ? spec : { dtype: 'u8', shape: [1] });
  return scope(() => {
    const [labels, inputs, sum, residual, noisy] = run(
      Op.multiscaleResidual,
      [
        features_BHWd,
        Tensor.from(Int32Array.from(grids.flat()), [grids.length, 2], 'i32', device),
        strengths && Tensor.from(strengths, [grids.length], statistic(features_BHWd), device),
        recorded,
        keys,
      ],
      [
        { dtype: 'u8', shape: [B, tokens, packedBytes(width)] },
        unless(later > 0, { dtype: rounded ?? features_BHWd.dtype, shape: [B, later, width] }),
        shaped(features_BHWd, [B, H, W, d]),
        unless(trace, shaped(features_BHWd, [B, L, d])),
        unless(trace, { dtype: 'u8', shape: [B, L, d] }),
      ],
      [Number(requant), Number(patchify), Number(trace), RandomStream.bitFlip, magnitude ?? 0],
    );
    const result = { labels_BLP: labels!, inputs_BLD: later > 0 ? inputs! : null, sum_BHWd: sum! };
    return trace ? { ...result, trace: { residual_BLd: residual!, noisy_BLd: noisy! } } : result;
  });
}
