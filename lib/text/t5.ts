/**
 * T5 v1.1 encoder: relative positions, RMS norms, gated GELU, no biases. Names as in the Hugging Face checkpoints. The released
 * models use flan-t5-xl frozen; a small one of the same class can be trained with the transformer.
 */
import { InfinityError, invalidArgument } from '../errors.js';
import { normal } from '../nn/init.js';
import { Linear } from '../nn/linear.js';
import { Module, type Tap } from '../nn/module.js';
import { RmsNorm } from '../nn/norm.js';
import { addBranch, type Branch } from '../nn/stream.js';
import { attention } from '../ops/attention.js';
import { mul } from '../ops/elementwise.js';
import { embedding } from '../ops/embedding.js';
import { permute, reshape } from '../ops/shape.js';
import { type Shape, scope, Tensor } from '../tensor.js';
import { t5OptionOf } from './infer_config.js';
import { relativePositionBuckets, type T5Config } from './t5_config.js';

/** Attention with a bias a head and no division by √d_kv. */
class T5Attention extends Module {
  private readonly q: Linear;
  private readonly k: Linear;
  private readonly v: Linear;
  private readonly o: Linear;

  constructor(private readonly config: T5Config) {
    super();
    const { d_model: C, d_kv, num_heads } = config;
    const inner = d_kv * num_heads;
    const project = (inputs: number, outputs: number, std: number) =>
      new Linear(inputs, outputs, { init: normal(std), bias: false });
    this.q = this.child('q', project(C, inner, (C * d_kv) ** -0.5));
    this.k = this.child('k', project(C, inner, C ** -0.5));
    this.v = this.child('v', project(C, inner, C ** -0.5));
    this.o = this.child('o', project(inner, C, inner ** -0.5));
  }

  forward(x_BLC: Tensor, range: Tensor, bias_HLL: Tensor): Branch {
    const heads = this.config.num_heads;
    const [q, k, v] = [this.q.forward(x_BLC), this.k.forward(x_BLC), this.v.forward(x_BLC)];
    const o_BLI = attention(q, k, v, { heads, scale: 1, range, bias: bias_HLL });
    return { last: this.o, input: o_BLI };
  }
}

/** wo(gelu(wi_0 x) · wi_1 x). */
class T5DenseGatedGelu extends Module {
  private readonly wi0: Linear;
  private readonly wi1: Linear;
  private readonly wo: Linear;

  constructor({ d_model: C, d_ff }: T5Config) {
    super();
    this.wi0 = this.child('wi_0', new Linear(C, d_ff, { init: normal(C ** -0.5), bias: false }));
    this.wi1 = this.child('wi_1', new Linear(C, d_ff, { init: normal(C ** -0.5), bias: false }));
    this.wo = this.child('wo', new Linear(d_ff, C, { init: normal(d_ff ** -0.5), bias: false }));
  }

  forward(x_BLC: Tensor): Branch {
    const h_BLF = mul(this.wi0.forward(x_BLC, { gelu: true }), this.wi1.forward(x_BLC));
    return { last: this.wo, input: h_BLF };
  }
}

class T5Block extends Module {
  private readonly attentionNorm: RmsNorm;
  private readonly attention: T5Attention;
  private readonly denseNorm: RmsNorm;
  private readonly dense: T5DenseGatedGelu;

  constructor(config: T5Config) {
    super();
    const { d_model, layer_norm_epsilon: eps } = config;
    this.attention = this.child('layer.0.SelfAttention', new T5Attention(config));
    this.attentionNorm = this.child('layer.0.layer_norm', new RmsNorm(d_model, eps));
    this.dense = this.child('layer.1.DenseReluDense', new T5DenseGatedGelu(config));
    this.denseNorm = this.child('layer.1.layer_norm', new RmsNorm(d_model, eps));
  }

  forward(x_BLC: Tensor, range: Tensor, bias_HLL: Tensor, tap?: Tap): Tensor {
    x_BLC = addBranch(x_BLC, this.attention.forward(this.attentionNorm.forward(x_BLC), range, bias_HLL));
    tap?.('after_attention', x_BLC);
    return addBranch(x_BLC, this.dense.forward(this.denseNorm.forward(x_BLC)));
  }
}

/** Token ids to one row of features a token. */
export class T5Encoder extends Module {
  private readonly shared: Tensor;
  private readonly relativeBias: Tensor;
  private readonly blocks: readonly T5Block[];
  private readonly finalNorm: RmsNorm;

  constructor(readonly config: T5Config) {
    super();
    const { d_model: C, vocab_size, num_heads, num_layers, relative_attention_num_buckets: buckets } = config;
    this.shared = this.parameter('shared.weight', [vocab_size, C], normal(1));
    this.relativeBias = this.parameter(
      'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight',
      [buckets, num_heads],
      normal(C ** -0.5),
    );
    this.blocks = Array.from({ length: num_layers }, (_, i) => this.child(`encoder.block.${i}`, new T5Block(config)));
    this.finalNorm = this.child('encoder.final_layer_norm', new RmsNorm(C, config.layer_norm_epsilon));
  }

  /** The decoder of the full checkpoints, and the second name of the embedding. */
  protected override ignores(name: string): boolean {
    return name.startsWith('decoder.') || name === 'lm_head.weight' || name === 'encoder.embed_tokens.weight';
  }

  protected override sourceName(name: string, shapes: ReadonlyMap<string, Shape>): string {
    return name === 'shared.weight' && !shapes.has(name) ? 'encoder.embed_tokens.weight' : name;
  }

  protected override optionOf(name: string, missing: boolean): string {
    return t5OptionOf(name, missing, this.config);
  }

  /** Additive bias of every head for `length` tokens, [H, L, L]. Positions depend on the distance alone. */
  positionBias(length: number): Tensor {
    const { num_heads } = this.config;
    return scope(() => {
      const ids = Tensor.from(relativePositionBuckets(length, this.config), [length * length], 'i32', this.device);
      return permute(reshape(embedding(this.relativeBias, ids), [length, length, num_heads]), [2, 0, 1]);
    });
  }

  /**
   * Hidden states of a batch. Rows beyond a prompt's length are computed from the prompt alone and mean nothing.
   * @param ids i32 [B, L], shorter prompts filled up with any id
   * @param lens tokens of every prompt, 1 to L
   * @param tap sees `embed`, `position_bias`, `blockN.after_attention`, `blockN.output`
   * @returns [B, L, d_model]
   */
  forward(ids: Tensor, lens: readonly number[], tap?: Tap): Tensor {
    const [B = 0, L = 0] = ids.shape;
    if (ids.rank !== 2 || lens.length !== B || !lens.every((n) => Number.isInteger(n) && n >= 1 && n <= L))
      invalidArgument('the lengths of the prompts', `${B} integers from 1 to ${L}`, lens);
    return scope(() => {
      const range = Tensor.from(Int32Array.from(lens.flatMap((n) => [0, n])), [B, 1, 2], 'i32', this.device);
      const bias_HLL = this.positionBias(L);
      tap?.('position_bias', reshape(bias_HLL, [1, ...bias_HLL.shape]));
      let x_BLC = embedding(this.shared, ids);
      tap?.('embed', x_BLC);
      for (const [i, block] of this.blocks.entries()) {
        const named = tap && ((name: string, value: Tensor) => tap(`block${i}.${name}`, value));
        x_BLC = scope(() => block.forward(x_BLC, range, bias_HLL, named));
        tap?.(`block${i}.output`, x_BLC);
      }
      return this.finalNorm.forward(x_BLC);
    });
  }

  /**
   * Text features as the transformer takes them: rows of all prompts packed, [sum of lens, d_model]. The batch is filled up to
   * its longest prompt only.
   * @param prompts token ids of every prompt, end marker included
   * @throws InfinityError PROMPT_EMPTY
   */
  encode(prompts: readonly (readonly number[])[]): { readonly kv_NCt: Tensor; readonly lens: readonly number[] } {
    const lens = prompts.map((ids) => ids.length);
    if (lens.length === 0 || lens.includes(0))
      throw new InfinityError('PROMPT_EMPTY', 'Expected at least one token in every prompt but received none.', {
        value: lens,
        cure: 'Keep the end marker: an empty prompt has one token.',
      });
    const L = Math.max(...lens);
    return scope(() => {
      const padded = Int32Array.from(prompts.flatMap((ids) => [...ids, ...new Array<number>(L - ids.length).fill(0)]));
      const x_BLC = this.forward(Tensor.from(padded, [lens.length, L], 'i32', this.device), lens);
      const rows = lens.flatMap((n, b) => Array.from({ length: n }, (_, i) => b * L + i));
      const ids = Tensor.from(Int32Array.from(rows), [rows.length], 'i32', this.device);
      return { kv_NCt: embedding(reshape(x_BLC, [lens.length * L, this.config.d_model]), ids), lens };
    });
  }
}
