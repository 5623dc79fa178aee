/**
 * The text side of the transformer: prompts of any length, packed without padding, become one vector a sample (for the
 * modulation) and one row a text token (for cross attention). Source: Infinity, infinity/models/infinity.py.
 */
import { InfinityError, invalidArgument } from '../errors.js';
import { AttentivePool } from '../nn/attention.js';
import { truncatedNormal } from '../nn/init.js';
import { Linear } from '../nn/linear.js';
import { Module, type Tap } from '../nn/module.js';
import { RmsNorm } from '../nn/norm.js';
import { cat, slice } from '../ops/shape.js';
import { Tensor } from '../tensor.js';
import { projectionInit } from './block.js';
import type { InfinityConfig } from './config.js';

/** Text features of a batch: rows of all prompts one after the other, and how many rows each has. */
export interface TextFeatures {
  /** [sum of lens, text_channels]. */
  readonly kv_NCt: Tensor;
  readonly lens: readonly number[];
}

/** Packed features together with the rows [start, end) that every run sample reads; samples may share rows. */
export interface TextRows {
  readonly kv_NCt: Tensor;
  readonly rows: readonly (readonly [start: number, end: number])[];
  /** How many rows belong to prompts; shared unconditional rows may follow. */
  readonly own: number;
}

/** What the blocks know of the prompts. */
export interface TextCondition {
  /** The pooled prompts. */
  readonly cond_BC: Tensor;
  /** Keys and values of cross attention, before each block's own projection. */
  readonly ca_NC: Tensor;
  /** i32 [B, 1, 2]: the rows of `ca_NC` that belong to each sample. */
  readonly textRange: Tensor;
}

/** Norm, attentive pooling and the projection for cross attention, with the learned "no text". */
export class TextConditioner extends Module {
  /** Learned text features that stand for "no prompt": the first n rows replace a prompt of n rows. */
  private readonly cfgUncond: Tensor;
  private readonly norm: RmsNorm;
  private readonly pool: AttentivePool;
  private readonly proj0: Linear;
  private readonly proj2: Linear;

  constructor({ embed_dim: C, text_channels: Ct, text_maxlen, norm_eps }: InfinityConfig) {
    super();
    const init = projectionInit(C);
    const uncond = truncatedNormal(1.2, { gain: 1 / Math.sqrt(Ct) });
    this.cfgUncond = this.parameter('cfg_uncond', [text_maxlen, Ct], uncond);
    this.norm = this.child('text_norm', new RmsNorm(Ct, norm_eps));
    this.pool = this.child('text_proj_for_sos.ca', new AttentivePool(C, Ct, init));
    this.proj0 = this.child('text_proj_for_ca.0', new Linear(Ct, C, { init }));
    this.proj2 = this.child('text_proj_for_ca.2', new Linear(C, C, { init }));
  }

  /** One run sample a prompt. */
  plain(text: TextFeatures): TextRows {
    return { kv_NCt: text.kv_NCt, rows: this.rowsOf(text), own: text.kv_NCt.shape[0]! };
  }

  /** One run sample a prompt; where `drop` says so it reads as many unconditional rows instead. */
  withDropped(text: TextFeatures, drop: readonly boolean[]): TextRows {
    const { kv_NCt, rows, unconditional, own } = this.withUnconditional(text);
    return { kv_NCt, rows: rows.map((prompt, i) => (drop[i] ? unconditional[i]! : prompt)), own };
  }

  /** All prompts, then as many samples to guide away from: the negative prompts, or nothing in the length of each prompt. */
  guided(text: TextFeatures, negative?: TextFeatures): TextRows {
    if (!negative) {
      const { kv_NCt, rows, unconditional, own } = this.withUnconditional(text);
      return { kv_NCt, rows: [...rows, ...unconditional], own };
    }
    if (negative.lens.length !== text.lens.length)
      invalidArgument('the negative prompts', `${text.lens.length}, one a prompt`, negative.lens.length);
    const own = text.kv_NCt.shape[0]!;
    const away = this.rowsOf(negative).map(([start, end]) => [own + start, own + end] as const);
    return { kv_NCt: cat([text.kv_NCt, negative.kv_NCt], 0), rows: [...this.rowsOf(text), ...away], own };
  }

  /** Unconditional rows are the same for all samples, so they stand there once. */
  private withUnconditional(text: TextFeatures) {
    const rows = this.rowsOf(text);
    const own = text.kv_NCt.shape[0]!;
    const unconditional = rows.map(([start, end]) => [own, own + end - start] as const);
    const kv_NCt = cat([text.kv_NCt, slice(this.cfgUncond, 0, 0, Math.max(...text.lens))], 0);
    return { kv_NCt, rows, unconditional, own };
  }

  /** @throws InfinityError PROMPT_EMPTY, PROMPT_TOO_LONG, INVALID_ARGUMENT */
  private rowsOf({ kv_NCt, lens }: TextFeatures): (readonly [number, number])[] {
    const [maxlen = 0, width = 0] = this.cfgUncond.shape;
    let end = 0;
    const rows = lens.map((len) => {
      if (!Number.isInteger(len) || len < 1)
        throw new InfinityError('PROMPT_EMPTY', `Expected at least one row of text a prompt but received ${len}.`, {
          value: len,
          cure: 'Keep the end marker: an empty prompt has one row.',
        });
      if (len > maxlen)
        throw new InfinityError('PROMPT_TOO_LONG', `Expected at most ${maxlen} rows of text but received ${len}.`, {
          value: len,
          fields: { limit: maxlen },
          cure: 'Shorten the prompt.',
        });
      end += len;
      return [end - len, end] as const;
    });
    if (rows.length === 0) invalidArgument('the prompts', 'at least one', lens);
    if (kv_NCt.rank !== 2 || kv_NCt.shape[0] !== end || kv_NCt.shape[1] !== width)
      invalidArgument('the text features', `[${end}, ${width}] for prompts of ${lens.join(' + ')} rows`, kv_NCt.shape);
    return rows;
  }

  /** @param tap sees `text.normed_kv`, `text.cond_BD`, `text.ca_kv` */
  forward({ kv_NCt, rows, own }: TextRows, tap?: Tap): TextCondition {
    const textRange = Tensor.from(Int32Array.from(rows.flat()), [rows.length, 1, 2], 'i32', this.device);
    const kv = this.norm.forward(kv_NCt);
    const cond_BC = this.pool.forward(kv, textRange);
    const ca_NC = this.proj2.forward(this.proj0.forward(kv, { gelu: true }));
    tap?.('text.normed_kv', slice(kv, 0, 0, own));
    tap?.('text.cond_BD', cond_BC);
    tap?.('text.ca_kv', slice(ca_NC, 0, 0, own));
    return { cond_BC, ca_NC, textRange };
  }
}
