/**
 * The text side of the transformer: prompts of any length, packed without padding, become one vector a sample (for the
 * modulation) and one row a text token (for cross attention). Source: Infinity, infinity/models/infinity.py.
 */
import { InfinityError, invalidArgument } from '../errors.js';
import { AttentivePool, type TextKeysValues } from '../nn/attention.js';
import { truncatedNormal } from '../nn/init.js';
import { Linear } from '../nn/linear.js';
import { Module, type Tap } from '../nn/module.js';
import { RmsNorm } from '../nn/norm.js';
import { cast, cat, slice } from '../ops/shape.js';
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
  /** Features of prompts, [own rows, text_channels]. */
  readonly kv_NCt: Tensor;
  /** How many of the learned unconditional rows follow them: the first ones, once for all samples. */
  readonly learned: number;
  readonly rows: readonly (readonly [start: number, end: number])[];
}

/** Text features, ready for those who attend to them. */
export interface ProjectedText {
  /** For the attentive pooling. */
  readonly pool: TextKeysValues;
  /** Keys and values of cross attention, before each block's own projection, [N, C]. */
  readonly ca_NC: Tensor;
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

/** The rows that each sample reads, as the ops take them. */
export const rangeRows = ({ rows }: TextRows): Int32Array => Int32Array.from(rows.flat());

/** The same prompts in a longer tensor, and with more learned rows, which stand behind all of it. */
export function inBuffer({ kv_NCt, rows }: TextRows, buffer_NCt: Tensor, learned: number): TextRows {
  const [own, moved] = [kv_NCt.shape[0]!, buffer_NCt.shape[0]!];
  const placed = rows.map(([start, end]) => {
    const by = start < own ? 0 : moved - own;
    return [start + by, end + by] as const;
  });
  return { kv_NCt: buffer_NCt, learned, rows: placed };
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

  /** Rows of the longest prompt. */
  get longest(): number {
    return this.cfgUncond.shape[0]!;
  }

  /** One run sample a prompt. */
  plain(text: TextFeatures): TextRows {
    return { kv_NCt: text.kv_NCt, learned: 0, rows: this.rowsOf(text) };
  }

  /** One run sample a prompt; where `drop` says so it reads as many unconditional rows instead. */
  withDropped(text: TextFeatures, drop: readonly boolean[]): TextRows {
    const { rows, unconditional, ...rest } = this.withUnconditional(text);
    return { ...rest, rows: rows.map((prompt, i) => (drop[i] ? unconditional[i]! : prompt)) };
  }

  /** All prompts, then as many samples to guide away from: the negative prompts, or nothing in the length of each prompt. */
  guided(text: TextFeatures, negative?: TextFeatures): TextRows {
    if (!negative) {
      const { rows, unconditional, ...rest } = this.withUnconditional(text);
      return { ...rest, rows: [...rows, ...unconditional] };
    }
    if (negative.lens.length !== text.lens.length)
      invalidArgument('the negative prompts', `${text.lens.length}, one a prompt`, negative.lens.length);
    const own = text.kv_NCt.shape[0]!;
    const away = this.rowsOf(negative).map(([start, end]) => [own + start, own + end] as const);
    return { kv_NCt: cat([text.kv_NCt, negative.kv_NCt], 0), learned: 0, rows: [...this.rowsOf(text), ...away] };
  }

  private withUnconditional(text: TextFeatures) {
    const rows = this.rowsOf(text);
    const own = text.kv_NCt.shape[0]!;
    const unconditional = rows.map(([start, end]) => [own, own + end - start] as const);
    return { kv_NCt: text.kv_NCt, learned: Math.max(...text.lens), rows, unconditional };
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

  /** The first `count` rows that stand for "no prompt", [count, Ct]. */
  learnedRows(count: number): Tensor {
    return slice(this.cfgUncond, 0, 0, count);
  }

  /** i32 [B, 1, 2]: which rows each sample reads. */
  range(text: TextRows): Tensor {
    return Tensor.from(rangeRows(text), [text.rows.length, 1, 2], 'i32', this.device);
  }

  /** Every row by itself, [N, Ct]. @param tap sees `text.normed_kv` and `text.ca_kv`, of all rows */
  project(kv_NCt: Tensor, tap?: Tap): ProjectedText {
    const kv = this.norm.forward(cast(kv_NCt, this.dtype));
    tap?.('text.normed_kv', kv);
    const ca_NC = this.proj2.forward(this.proj0.forward(kv, { gelu: true }));
    tap?.('text.ca_kv', ca_NC);
    return { pool: this.pool.keysValues(kv), ca_NC };
  }

  /** One vector a sample, [B, C]. */
  pooled(pool: TextKeysValues, textRange: Tensor): Tensor {
    return this.pool.forward(pool, textRange);
  }

  /** @param tap sees `text.normed_kv`, `text.cond_BD`, `text.ca_kv`, those of rows without the learned ones */
  forward(text: TextRows, tap?: Tap): TextCondition {
    const { kv_NCt, learned } = text;
    const own = kv_NCt.shape[0]!;
    const textRange = this.range(text);
    const all_NCt = learned > 0 ? cat([kv_NCt, this.learnedRows(learned)], 0) : kv_NCt;
    const { pool, ca_NC } = this.project(all_NCt, tap && ((name, rows) => tap(name, slice(rows, 0, 0, own))));
    const cond_BC = this.pooled(pool, textRange);
    tap?.('text.cond_BD', cond_BC);
    return { cond_BC, ca_NC, textRange };
  }
}
