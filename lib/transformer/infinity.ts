/**
 * The Infinity transformer: predicts the bits of the next scale from all coarser scales and the prompt.
 * Source: Infinity (arXiv 2412.04431), infinity/models/infinity.py.
 */
import { invalidArgument } from '../errors.js';
import { ownTokens } from '../nn/attention.js';
import { Linear } from '../nn/linear.js';
import { Module, type Tap } from '../nn/module.js';
import { LayerNorm, type Norm, RmsNorm } from '../nn/norm.js';
import { add, silu } from '../ops/elementwise.js';
import { embedding } from '../ops/embedding.js';
import { statistic } from '../ops/run.js';
import { cast, cat, reshape } from '../ops/shape.js';
import { checkpoint } from '../tape.js';
import { scope, Tensor, unscoped } from '../tensor.js';
import { type ScaleSchedule, scaleOffsets, scaleTokens, tokenCount } from '../tokenizer/schedule.js';
import { BitHead } from './bit_head.js';
import { type BlockContext, CrossAttnBlock, partsFirst, projectionInit } from './block.js';
import { dropPathRates, type InfinityConfig, ropeFinest, tokenBits } from './config.js';
import type { BitLoss, BitLossOptions, Head } from './head.js';
import { infinityOptionOf } from './infer_config.js';
import { rope2dTable } from './rope.js';
import { SoftmaxHead } from './softmax_head.js';
import { type TextCondition, TextConditioner, type TextFeatures, type TextRows } from './text.js';
import { appendRows, LearnedText, projectText, type TextMemory } from './text_memory.js';

/** Rows of `lvl_embed`: more than any published schedule has scales. */
export const MAX_SCALES = 15;
/** Buffers of old training checkpoints that hold no weights. */
const LEGACY_BUFFERS = ['lvl_1L', 'attn_bias_for_masking', 'Infinity_visible_kvlen', 'Infinity_invisible_qlen'];

/** What teacher forcing needs besides the inputs. */
export interface ForwardOptions {
  readonly text: TextFeatures;
  readonly schedule: ScaleSchedule;
  /** Rows and columns that rotary positions are stretched to; by default from the config. */
  readonly finest?: readonly [h: number, w: number];
  /** Training: samples whose prompt is replaced by the unconditional rows. */
  readonly dropText?: readonly boolean[];
  /** Training: which branches of which samples are kept, a list of B flags for each block; left out, no path is dropped. */
  readonly dropPath?: readonly { readonly sa: ArrayLike<number>; readonly ffn: ArrayLike<number> }[];
  /** Recompute every block in the backward pass. */
  readonly checkpointing?: boolean;
  /** Sees activations under the names of the reference data. */
  readonly tap?: Tap;
}

/** All parameters of the transformer, and the computations that training and drawing are made of. */
export class InfinityTransformer extends Module {
  readonly text: TextConditioner;
  readonly blocks: readonly CrossAttnBlock[];
  readonly head: Head;
  private readonly posStart: Tensor;
  private readonly lvlEmbed: Tensor;
  private readonly norm0: Norm | null;
  private readonly word: Linear;
  private readonly sharedAda: Linear | null;
  private readonly ropeTables = new Map<string, Tensor>();
  private learnedText: LearnedText | undefined;

  constructor(readonly config: InfinityConfig) {
    super();
    const { embed_dim: C, norm_eps: eps, rms_norm, depth, block_chunks } = config;
    const D = tokenBits(config);
    const init = projectionInit(C);
    this.text = this.child('', new TextConditioner(config));
    this.posStart = this.parameter('pos_start', [1, 1, C], init);
    this.lvlEmbed = this.parameter('lvl_embed.weight', [MAX_SCALES, C], init);
    this.norm0 = config.nm0 ? this.child('norm0_ve', rms_norm ? new RmsNorm(D, eps) : new LayerNorm(D, eps)) : null;
    this.word = this.child('word_embed', new Linear(D, C, { init }));
    this.sharedAda = config.shared_aln ? this.child('shared_ada_lin.1', new Linear(C, 6 * C, { init })) : null;
    const chunk = depth / block_chunks;
    this.blocks = Array.from({ length: depth }, (_, i) => {
      const name = block_chunks === 1 ? `blocks.${i}` : `block_chunks.${Math.floor(i / chunk)}.module.${i % chunk}`;
      return this.child(name, new CrossAttnBlock(config));
    });
    this.head = this.child('', config.head === 'softmax' ? new SoftmaxHead(config) : new BitHead(config));
  }

  protected override ignores(name: string): boolean {
    return LEGACY_BUFFERS.includes(name);
  }

  protected override adaptsRows(name: string): boolean {
    return name === 'cfg_uncond';
  }

  protected override optionOf(name: string, missing: boolean): string {
    return infinityOptionOf(name, missing, this.config);
  }

  /** Rotary table of a schedule, [tokens, c/2, 2]; kept for the next call. */
  rope(schedule: ScaleSchedule, finest = ropeFinest(this.config, schedule)): Tensor {
    const key = `${finest}|${schedule.join(';')}`;
    const known = this.ropeTables.get(key);
    // An unloaded network has dropped it.
    if (known && !known.disposed) return known;
    const { embed_dim, num_heads, rope2d_normalized_by_hw: mode } = this.config;
    const headDim = embed_dim / num_heads;
    const table = rope2dTable({ headDim, schedule, finest, mode });
    const shape = [tokenCount(schedule), headDim / 2, 2];
    // It serves later requests too: an upload that this one cancels would leave them a table of noise.
    const upload = () => unscoped(() => Tensor.from(table, shape, 'f32', this.device));
    const tensor = this.keep(this.device.withToken(null, upload));
    this.ropeTables.set(key, tensor);
    return tensor;
  }

  /** What pooling and blocks read of prompts and of the learned rows behind them; the latter are kept once frozen. */
  textMemory({ kv_NCt, learned }: TextRows): TextMemory {
    const prompts = projectText(this, kv_NCt);
    if (learned === 0) return prompts;
    if (!this.frozen) return appendRows(prompts, projectText(this, this.text.learnedRows(learned)), learned);
    this.learnedText ??= this.keep(new LearnedText(this));
    return appendRows(prompts, this.learnedText.first(learned), learned);
  }

  override unload(): void {
    super.unload();
    this.learnedText = undefined;
  }

  /** The one token of the first scale: the pooled prompt and a learned offset. [B, C] -> [B, 1, C]. */
  startToken(cond_BC: Tensor): Tensor {
    const [B = 1, C = 1] = cond_BC.shape;
    return add(reshape(cond_BC, [B, 1, C]), cast(this.posStart, this.dtype));
  }

  /** Code maps of a scale in raster order, [B, L, D] -> [B, L, C]. */
  wordEmbed(x_BLD: Tensor): Tensor {
    const x = cast(x_BLD, this.dtype);
    return this.word.forward(this.norm0 ? this.norm0.forward(x) : x);
  }

  /** Rows of the scale embedding, [levels, C]; one row serves all tokens of its scale. */
  levelEmbed(levels: readonly number[]): Tensor {
    const ids = Tensor.from(Int32Array.from(levels), [levels.length], 'i32', this.device);
    return cast(embedding(this.lvlEmbed, ids), this.dtype);
  }

  /** Whether the level embedding is added before block `i`. */
  addsLevelBefore(i: number): boolean {
    const { add_lvl_embeding_only_first_block: once, block_chunks, depth } = this.config;
    if (once) return i === 0;
    return block_chunks === 1 || i % (depth / block_chunks) === 0;
  }

  /** What all blocks are modulated by: their shared projection of the condition, or the condition itself. */
  modulationSource(cond_BC: Tensor, tap?: Tap): Tensor {
    const [B = 1, C = 1] = cond_BC.shape;
    if (!this.sharedAda) return cond_BC;
    const gss_B16C = reshape(this.sharedAda.forward(silu(cond_BC)), [B, 1, 6, C]);
    tap?.('text.gss_B16C', gss_B16C);
    return partsFirst(gss_B16C);
  }

  /**
   * Teacher forcing: logits of all scales at once, [B, L, 2D] (of the softmax head [B, L, 2^D]).
   * @param x_BLD inputs of all scales but the first (sums of codes so far, resized), [B, L - 1, D]; null for one scale
   */
  forward(x_BLD: Tensor | null, options: ForwardOptions): Tensor {
    return scope(() => this.head.classify(this.hidden(x_BLD, options)));
  }

  /**
   * Loss of teacher forcing against packed labels u8 [B, L, ceil(D / 8)], see `packBits`. Its gradients reach every parameter and the text features.
   * @throws InfinityError INVALID_SHAPE, INVALID_ARGUMENT, PROMPT_TOO_LONG
   */
  loss(x_BLD: Tensor | null, labels_BLP: Tensor, options: ForwardOptions & BitLossOptions): BitLoss {
    return scope(() => this.head.loss(this.hidden(x_BLD, options), labels_BLP, options));
  }

  /** The classifier's input of teacher forcing, [B, L, C]. */
  hidden(x_BLD: Tensor | null, options: ForwardOptions): Tensor {
    const { schedule, tap } = options;
    return scope(() => {
      const text = this.text.forward(this.text.withDropped(options.text, options.dropText ?? []), tap);
      const cond = this.modulationSource(text.cond_BC, tap);
      const context = this.context(text, options);
      const start_B1C = this.startToken(text.cond_BC);
      this.checkInputs(x_BLD, start_B1C.shape[0]!, schedule);
      let x_BLC = x_BLD ? cat([start_B1C, this.wordEmbed(x_BLD)], 1) : start_B1C;
      const lvl_LC = this.levelEmbed(schedule.flatMap((scale, k) => new Array<number>(scaleTokens(scale)).fill(k)));
      const keep = this.dropPathFactors(options);

      for (const [i, block] of this.blocks.entries()) {
        if (this.addsLevelBefore(i)) x_BLC = add(x_BLC, lvl_LC);
        // The reference adds the level in place: what it keeps as a block's output is what the next block reads.
        tap?.(i === 0 ? 'block0.input' : `block${i - 1}.output`, x_BLC);
        const ctx = {
          ...context,
          keep: keep?.[i],
          tap: tap && ((name: string, t: Tensor) => tap(`block${i}.${name}`, t)),
        };
        const run = (x: Tensor) =>
          scope(() => {
            const known = { modulation: block.modulation(cond), text: block.textKeysValues(text.ca_NC) };
            return block.forward({ x_BLC: x }, known, ctx).x_BLC;
          });
        if (options.checkpointing) {
          const kept = Object.values(keep?.[i] ?? {});
          const inputs = [x_BLC, cond, text.ca_NC, text.textRange, context.causal, ...kept];
          x_BLC = checkpoint(
            run,
            inputs,
            [...block.namedParameters()].map(([, t]) => t),
          );
        } else {
          x_BLC = run(x_BLC);
        }
      }
      tap?.(`block${this.blocks.length - 1}.output`, x_BLC);
      return this.head.normalize(x_BLC, this.head.condition(text.cond_BC), tap);
    });
  }

  /** Every token sees all scales up to its own. */
  private context(text: TextCondition, { schedule, finest }: ForwardOptions): BlockContext & { causal: Tensor } {
    const offsets = scaleOffsets(schedule);
    const visible = schedule.flatMap((scale, k) =>
      new Array<readonly number[]>(scaleTokens(scale)).fill([0, offsets[k + 1]!]),
    );
    const causal = Tensor.from(Int32Array.from(visible.flat()), [1, visible.length, 2], 'i32', this.device);
    const rope = this.rope(schedule, finest);
    return { rope, ropeStart: 0, memory: ownTokens(causal), textRange: text.textRange, causal };
  }

  private dropPathFactors({ dropPath, text }: ForwardOptions): { sa: Tensor; ffn: Tensor }[] | undefined {
    if (!dropPath) return undefined;
    const B = text.lens.length;
    const rates = dropPathRates(this.config);
    const factors = (flags: ArrayLike<number>, rate: number): Tensor => {
      if (flags.length !== B) invalidArgument('dropPath', `${B} flags, one a sample`, flags.length);
      const kept = Array.from(flags, (f) => f / (1 - rate));
      return cast(Tensor.from(kept, [B, 1, 1], statistic(this), this.device), this.dtype);
    };
    return this.blocks.map((_, i) => {
      const flags =
        dropPath[i] ?? invalidArgument('dropPath', `flags for ${this.blocks.length} blocks`, dropPath.length);
      return { sa: factors(flags.sa, rates[i]!), ffn: factors(flags.ffn, rates[i]!) };
    });
  }

  private checkInputs(x_BLD: Tensor | null, B: number, schedule: ScaleSchedule): void {
    const first = schedule[0];
    if (!first || scaleTokens(first) !== 1 || schedule.length > MAX_SCALES)
      invalidArgument('schedule', `1 to ${MAX_SCALES} scales, the first of one token`, schedule);
    const want = [B, tokenCount(schedule) - 1, tokenBits(this.config)];
    const found = x_BLD?.shape ?? [B, 0, want[2]!];
    if (found.length !== 3 || found.some((n, i) => n !== want[i]))
      invalidArgument('the inputs of teacher forcing', `[${want.join(', ')}]`, found);
  }
}
