/**
 * One transformer block: modulated self attention, cross attention into the text, modulated feed-forward.
 * Source: Infinity, infinity/models/basic.py (CrossAttnBlock, FFN, FFNSwiGLU).
 */
import { CrossAttention, SelfAttention, type SelfAttentionContext, type TextKeysValues } from '../nn/attention.js';
import { constant, type Init, normal, truncatedNormal } from '../nn/init.js';
import { type FoldedNorm, foldNorm, type LayerInput, Linear, tensorsOfNorm } from '../nn/linear.js';
import { Module, type Tap, type WeightFormat } from '../nn/module.js';
import { AdaLayerNorm, type AdaNorm, AdaRmsNorm, LayerNorm, type Norm, RmsNorm } from '../nn/norm.js';
import { type Branch, extend, normalized, type Stream } from '../nn/stream.js';
import { add, mul, silu, swiglu } from '../ops/elementwise.js';
import { foldsNorms } from '../ops/linear_norm.js';
import { cast, permute, reshape, unbind } from '../ops/shape.js';
import { scope, Tensor, unscoped } from '../tensor.js';
import { ffnHidden, type InfinityConfig, swigluHidden } from './config.js';

/** Initial scale of the modulation: gains start near 0, so that a fresh block is close to the identity. */
const GAIN_INIT = 5e-6;
const SHIFT_SCALE_INIT = 1e-3;

/** Standard deviation of every projection, sqrt(1 / 3C). */
export function projectionInit(C: number, gain = 1): Init {
  return truncatedNormal(Math.sqrt(1 / (3 * C)), { gain });
}

/** `init`, then the two gains of the six parts of a modulation times GAIN_INIT, the other four times SHIFT_SCALE_INIT. */
function modulationInit(init: Init): Init {
  return (out, draws) => {
    init(out, draws);
    for (let i = 0; i < out.length; i++) out[i]! *= i < out.length / 3 ? GAIN_INIT : SHIFT_SCALE_INIT;
  };
}

/** fc2(gelu(fc1 x)), or fc2(silu(fcg x) · fc1 x) without biases. */
class FeedForward extends Module {
  private readonly fcg: Linear | null;
  private readonly fc1: Linear;
  private readonly fc2: Linear;

  constructor({ embed_dim: C, mlp_ratio, swiglu: gated, depth }: InfinityConfig) {
    super();
    const hidden = gated ? swigluHidden(C, mlp_ratio) : ffnHidden(C, mlp_ratio);
    const options = { init: projectionInit(C), bias: !gated };
    this.fcg = gated ? this.child('fcg', new Linear(C, hidden, options)) : null;
    this.fc1 = this.child('fc1', new Linear(C, hidden, options));
    const init = projectionInit(C, 1 / Math.sqrt(2 * depth));
    this.fc2 = this.child('fc2', new Linear(hidden, C, { init, bias: !gated }));
  }

  /** The layers that read the input. */
  get readers(): readonly Linear[] {
    return this.fcg ? [this.fcg, this.fc1] : [this.fc1];
  }

  forward(x_BLC: LayerInput): Branch {
    const h_BLF = this.fcg
      ? swiglu(this.fcg.forward(x_BLC), this.fc1.forward(x_BLC))
      : this.fc1.forward(x_BLC, { gelu: true });
    return { last: this.fc2, input: h_BLF };
  }
}

/** A projection [B, 1, 6, C] as [6, B, 1, C], of which each part is a view. */
export const partsFirst = (gss_B16C: Tensor): Tensor => permute(gss_B16C, [2, 0, 1, 3]);

/** Gains, scales and shifts of the two modulated sub-layers, each [B, 1, C], in the reference's order. */
export type Modulation = readonly [g1: Tensor, g2: Tensor, s1: Tensor, s2: Tensor, t1: Tensor, t2: Tensor];

/** The norms before the three sub-layers, as the products around them carry them out. */
export interface FoldedNorms {
  readonly sa: FoldedNorm;
  readonly ca: FoldedNorm;
  readonly ffn: FoldedNorm;
}

/** What a block knows of the prompt: the same at every scale. */
export interface BlockCondition {
  readonly modulation: Modulation;
  readonly text: TextKeysValues;
  /** Where it is left out, norms are kernels of their own. */
  readonly folded?: FoldedNorms | undefined;
}

/** What a block knows of the scale it is run for. */
export interface BlockContext extends SelfAttentionContext {
  /** i32 [B, 1, 2]: the text rows of each sample. */
  readonly textRange: Tensor;
  /** Drop path: factors [B, 1, 1] of the two modulated branches, 0 or 1 / (1 - probability). */
  readonly keep?: { readonly sa: Tensor; readonly ffn: Tensor };
  /** Sees `sa_in`, `sa_out`, `ca_out`, `ffn_out`. */
  readonly tap?: Tap;
}

/** Self attention, cross attention and feed-forward, each added to the residual stream; the first and last are modulated. */
export class CrossAttnBlock extends Module {
  private readonly adaGss: Tensor | null;
  private readonly adaLin: Linear | null;
  /** Of a frozen block: `adaGss`, parts first, in the type of activations. */
  private roundedGss: Tensor | undefined;
  /** Of a frozen block whose products carry out its norms: (1, 0), what a pair of scale and shift is added to. */
  private neutral: Tensor | undefined;
  /** Its cross attention's norm: the same for every prompt. */
  private foldedCa: FoldedNorm | undefined;
  private readonly caGamma: Tensor | null;
  private readonly sa: SelfAttention;
  private readonly ca: CrossAttention;
  private readonly ffn: FeedForward;
  private readonly ln: AdaNorm;
  private readonly caNorm: Norm;

  constructor(config: InfinityConfig) {
    super();
    const { embed_dim: C, num_heads, cos_attn: cosine, tau, norm_eps: eps } = config;
    const init = projectionInit(C);
    const projInit = projectionInit(C, 1 / Math.sqrt(2 * config.depth));
    this.adaGss = config.shared_aln
      ? this.parameter('ada_gss', [1, 1, 6, C], modulationInit(normal(1 / Math.sqrt(C))))
      : null;
    const gamma = config.cross_attn_layer_scale;
    this.caGamma = gamma >= 0 ? this.parameter('ca_gamma', [C], constant(gamma)) : null;
    this.sa = this.child('sa', new SelfAttention(C, num_heads, { init, projInit, cosine, tau }));
    this.ca = this.child('ca', new CrossAttention(C, num_heads, { init, projInit }));
    this.ffn = this.child('ffn', new FeedForward(config));
    this.ln = this.child('ln_wo_grad', config.rms_norm ? new AdaRmsNorm(C, eps) : new AdaLayerNorm(eps));
    this.caNorm = this.child('ca_norm', config.rms_norm ? new RmsNorm(C, eps) : new LayerNorm(C, eps));
    this.adaLin = config.shared_aln
      ? null
      : this.child('ada_lin.1', new Linear(C, 6 * C, { init: modulationInit(init) }));
  }

  /** @param cond the shared modulation [6, B, 1, C], or the condition [B, C] where each block owns its projection */
  modulation(cond: Tensor): Modulation {
    return unbind(this.gss(cond), 0) as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor];
  }

  /** What drawing knows of the prompt. @param cond see `modulation` */
  condition(cond: Tensor, text: TextKeysValues): BlockCondition {
    const gss_6B1C = this.gss(cond);
    const modulation = unbind(gss_6B1C, 0) as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor];
    return { modulation, text, folded: this.neutral && this.fold(gss_6B1C, this.neutral) };
  }

  private gss(cond: Tensor): Tensor {
    const [B = 1, C = 1] = cond.shape;
    return this.adaGss
      ? add(this.roundedGss ?? cast(partsFirst(this.adaGss), this.dtype), cond)
      : partsFirst(reshape(this.adaLin!.forward(silu(cond)), [B, 1, 6, C]));
  }

  /** Scales and shifts are a pair for each norm, and the products that read the norm multiply both once a prompt. */
  private fold(gss_6B1C: Tensor, neutral_21: Tensor): FoldedNorms {
    const { ln } = this;
    const [, B = 1, , C = 1] = gss_6B1C.shape;
    const pairs_2B2C = permute(gss_6B1C.view([2, 2, B, C], 2 * B * C), [1, 2, 0, 3]);
    const affine_2B2C = ln.affine(add(cast(pairs_2B2C, 'f32'), neutral_21));
    const [sa, ffn] = unbind(affine_2B2C, 0) as [Tensor, Tensor];
    return {
      sa: foldNorm(ln, sa, this.sa.readers),
      ca: this.foldCa(),
      ffn: foldNorm(ln, ffn, this.ffn.readers),
    };
  }

  private foldCa(): FoldedNorm {
    if (this.foldedCa) return this.foldedCa;
    const { device, caNorm, ca } = this;
    // Later prompts read it too: one that is cancelled must not take its computation along.
    const folded = device.withToken(null, () =>
      unscoped(() => scope(() => foldNorm(caNorm, caNorm.affine(), ca.readers))),
    );
    for (const t of tensorsOfNorm(folded)) this.keep(t);
    this.foldedCa = folded;
    return folded;
  }

  protected override pack(_format: WeightFormat): void {
    this.foldedCa = undefined;
    this.neutral = foldsNorms(this.device) ? this.keep(Tensor.from([1, 0], [2, 1], 'f32', this.device)) : undefined;
    if (!this.adaGss) return;
    const gss_611C = scope(() => cast(partsFirst(this.adaGss!), this.dtype));
    this.roundedGss = this.keep(gss_611C);
  }

  /** Keys and values of text features [N, C] that `TextConditioner.project` made. */
  textKeysValues(ca_NC: Tensor): TextKeysValues {
    return this.ca.keysValues(ca_NC);
  }

  /** @param next the norm that reads the result, where products carry it out */
  forward(stream: Stream, { modulation, text, folded }: BlockCondition, ctx: BlockContext, next?: FoldedNorm): Stream {
    const { keep, tap } = ctx;
    const look = (name: string) => tap && ((value: Tensor) => tap(name, value));
    const [gain1, gain2, s1, s2, t1, t2] = modulation;
    const g1 = keep ? mul(gain1, keep.sa) : gain1;
    const g2 = keep ? mul(gain2, keep.ffn) : gain2;

    const gamma_11C = this.caGamma ? reshape(this.caGamma, [1, 1, this.caGamma.size]) : undefined;

    const y_BLC = normalized(stream, folded?.sa, (x_BLC) => this.ln.forward(x_BLC, s1, t1));
    if (y_BLC instanceof Tensor) tap?.('sa_in', y_BLC);
    const sa = this.sa.forward(y_BLC, ctx);
    stream = extend(stream, sa, { gate: g1, look: look('sa_out'), next: folded?.ca });
    const ca = this.ca.forward(
      normalized(stream, folded?.ca, (x_BLC) => this.caNorm.forward(x_BLC)),
      text,
      ctx.textRange,
    );
    stream = extend(stream, ca, { gate: gamma_11C, look: look('ca_out'), next: folded?.ffn });
    const ffn = this.ffn.forward(normalized(stream, folded?.ffn, (x_BLC) => this.ln.forward(x_BLC, s2, t2)));
    return extend(stream, ffn, { gate: g2, look: look('ffn_out'), next });
  }
}
