/**
 * The attention layers of Infinity: self attention over all scales so far, cross attention into the text, attentive pooling.
 * Source: Infinity, infinity/models/basic.py (SelfAttention, CrossAttention, TextAttentivePool).
 */
import { attention, type QkvPrepOptions, qkvPrep } from '../ops/attention.js';
import { cast, cat, repeat0, reshape, unbind } from '../ops/shape.js';
import type { Tensor } from '../tensor.js';
import { constant, type Init, zeros } from './init.js';
import { type LayerInput, Linear } from './linear.js';
import { Module, type WeightFormat } from './module.js';
import type { Branch } from './stream.js';

/** Queries, and the rows they attend to, possibly those of earlier calls as well. */
export interface Seen {
  readonly q_BLC: Tensor;
  readonly k_BLC: Tensor;
  readonly v_BLC: Tensor;
  /** i32 [1 or B, 1 or L, 2]: the rows [start, end) that each query sees; all where it is left out. */
  readonly range?: Tensor;
  /** See `AttentionOptions`. */
  readonly sampleStride?: number;
}

/** Where keys and values are: `append` prepares and stores those of a fused projection and tells what its queries see. */
export interface Memory {
  append(qkv_BL3C: Tensor, options: QkvPrepOptions): Seen;
}

/** No earlier call: queries see the tokens of their own, as far as `range` shows them. */
export function ownTokens(range: Tensor): Memory {
  return {
    append: (qkv_BL3C, options) => {
      const [q_BLC, k_BLC, v_BLC] = qkvPrep(qkv_BL3C, options);
      return { q_BLC, k_BLC, v_BLC, range };
    },
  };
}

/** What self attention knows besides its input: places of the tokens, and what came before them. */
export interface SelfAttentionContext {
  /** f32 [rows, c/2, 2] (cos, sin), and the row of the first token. */
  readonly rope: Tensor;
  readonly ropeStart: number;
  readonly memory: Memory;
}

/** A bias put together from parts, of which the key part is a constant of the reference's state dict. */
abstract class BiasedAttention extends Module {
  private bias: Tensor | undefined;
  protected abstract biasParts(): Tensor[];
  protected joinedBias(): Tensor {
    return this.bias ?? cat(this.biasParts(), 0);
  }
  protected override pack(_format: WeightFormat): void {
    this.bias = this.keep(cat(this.biasParts(), 0));
  }
}

/** Initial values and kind of the logits. */
export interface SelfAttentionOptions {
  readonly init: Init;
  readonly projInit: Init;
  /** Unit queries and keys with a learned gain a head; otherwise logits are divided by √c · tau. */
  readonly cosine: boolean;
  readonly tau: number;
}

/** Attention of tokens to those of all scales up to their own. */
export class SelfAttention extends BiasedAttention {
  private readonly scaleMul: Tensor | null;
  private readonly qBias: Tensor;
  private readonly vBias: Tensor;
  private readonly zeroKBias: Tensor;
  private readonly matQkv: Linear;
  private readonly proj: Linear;
  private readonly scale: number;

  constructor(
    C: number,
    private readonly heads: number,
    { init, projInit, cosine, tau }: SelfAttentionOptions,
  ) {
    super();
    this.scaleMul = cosine ? this.parameter('scale_mul_1H11', [1, heads, 1, 1], constant(Math.log(4))) : null;
    this.scale = cosine ? 1 : 1 / (Math.sqrt(C / heads) * tau);
    this.matQkv = this.child('mat_qkv', new Linear(C, 3 * C, { init, bias: false }));
    this.qBias = this.parameter('q_bias', [C], zeros);
    this.vBias = this.parameter('v_bias', [C], zeros);
    this.zeroKBias = this.buffer('zero_k_bias', [C], zeros);
    this.proj = this.child('proj', new Linear(C, C, { init: projInit }));
  }

  protected biasParts(): Tensor[] {
    return [this.qBias, this.zeroKBias, this.vBias];
  }

  /** The layers that read the input. */
  get readers(): readonly Linear[] {
    return [this.matQkv];
  }

  forward(x_BLC: LayerInput, { rope, ropeStart, memory }: SelfAttentionContext): Branch {
    const { heads, scale } = this;
    const unitKeys = this.scaleMul !== null;
    const qkv_BL3C = this.matQkv.forwardWithBias(x_BLC, this.joinedBias());
    const gain = this.scaleMul && reshape(this.scaleMul, [heads]);
    const { q_BLC, k_BLC, v_BLC, range, sampleStride } = memory.append(qkv_BL3C, {
      heads,
      gain,
      rope,
      ropeStart,
      cosine: unitKeys,
    });
    const o_BLC = attention(q_BLC, k_BLC, v_BLC, { heads, scale, range, sampleStride, unitKeys });
    return { last: this.proj, input: o_BLC };
  }
}

/** Keys and values of the text, packed: row n belongs to the sample whose range holds n. */
export interface TextKeysValues {
  readonly k_1NC: Tensor;
  readonly v_1NC: Tensor;
}

/** mat_kv of a text feature: keys without bias, values with one. */
abstract class TextAttention extends BiasedAttention {
  private readonly matKv: Linear;
  private readonly vBias: Tensor;
  private readonly zeroKBias: Tensor;
  protected readonly proj: Linear;

  constructor(
    protected readonly C: number,
    textWidth: number,
    protected readonly heads: number,
    { init, projInit }: { init: Init; projInit: Init },
  ) {
    super();
    this.matKv = this.child('mat_kv', new Linear(textWidth, 2 * C, { init, bias: false }));
    this.vBias = this.parameter('v_bias', [C], zeros);
    this.zeroKBias = this.buffer('zero_k_bias', [C], zeros);
    this.proj = this.child('proj', new Linear(C, C, { init: projInit }));
  }

  protected biasParts(): Tensor[] {
    return [this.zeroKBias, this.vBias];
  }

  /** The same for every scale of a picture. */
  keysValues(text_NC: Tensor): TextKeysValues {
    const kv_N2C = this.matKv.forwardWithBias(text_NC, this.joinedBias());
    const [k_1NC, v_1NC] = unbind(reshape(kv_N2C, [1, text_NC.shape[0]!, 2, this.C]), 2);
    return { k_1NC: k_1NC!, v_1NC: v_1NC! };
  }

  protected attend(q_BLC: Tensor, { k_1NC, v_1NC }: TextKeysValues, range: Tensor): Tensor {
    const { heads } = this;
    return attention(q_BLC, k_1NC, v_1NC, { heads, scale: 1 / Math.sqrt(this.C / heads), range });
  }
}

/** Attention of tokens to the text of their sample. */
export class CrossAttention extends TextAttention {
  private readonly matQ: Linear;

  constructor(C: number, heads: number, inits: { init: Init; projInit: Init }) {
    super(C, C, heads, inits);
    this.matQ = this.child('mat_q', new Linear(C, C, { init: inits.init }));
  }

  /** The layers that read the input. */
  get readers(): readonly Linear[] {
    return [this.matQ];
  }

  /** @param range i32 [B, 1, 2], the text rows of each sample */
  forward(x_BLC: LayerInput, text: TextKeysValues, range: Tensor): Branch {
    const o_BLC = this.attend(this.matQ.forward(x_BLC), text, range);
    return { last: this.proj, input: o_BLC };
  }
}

/** One learned query per head gathers a prompt into one vector. */
export class AttentivePool extends TextAttention {
  private readonly matQ: Tensor;

  constructor(C: number, textWidth: number, init: Init) {
    const heads = Math.floor(textWidth / (C <= 4096 ? 128 : 64));
    super(C, textWidth, heads, { init, projInit: init });
    this.matQ = this.parameter('mat_q', [1, heads, C / heads], init);
  }

  /** Keys and values of text features, and the rows of each sample, i32 [B, 1, 2] -> [B, C]. */
  forward(text: TextKeysValues, range: Tensor): Tensor {
    const B = range.shape[0]!;
    const q_B1C = repeat0(reshape(cast(this.matQ, this.dtype), [1, 1, this.C]), B);
    const o_B1C = this.attend(q_B1C, text, range);
    return this.proj.forward(reshape(o_B1C, [B, this.C]));
  }
}
