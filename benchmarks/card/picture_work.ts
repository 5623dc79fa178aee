/** What the stages of a guided picture must do at least: operations of products and attention, bytes read or written once. */
import type { T5Config } from '../../lib/text/t5_config.js';
import { type ScaleSchedule, scaleOffsets, scaleTokens } from '../../lib/tokenizer/schedule.js';
import type { InfinityConfig } from '../../lib/transformer/config.js';
import { HALF, type Work } from './measure.js';

/** With guidance a picture is two samples. */
export const ROWS = 2;

const total = (parts: readonly Work[], times = 1): Required<Work> => ({
  flops: times * parts.reduce((sum, { flops = 0 }) => sum + flops, 0),
  bytes: times * parts.reduce((sum, { bytes = 0 }) => sum + bytes, 0),
});

/** One block in bf16: q, k, v and projection of both attentions (the text's keys and values are there), and the network of four widths. */
export function blockWork({
  width: C,
  rows,
  queries: n,
  keys,
  text,
}: {
  readonly width: number;
  readonly rows: number;
  readonly queries: number;
  readonly keys: number;
  readonly text: number;
}): Required<Work> {
  const weights = 14 * C * C;
  return {
    flops: rows * n * (2 * weights + 4 * (keys + text) * C),
    bytes: HALF * (weights + rows * (2 * n + 2 * keys) * C),
  };
}

/** Every scale of a transformer; the first makes what the text gives to all of them as well. */
export function scaleWorks(config: InfinityConfig, schedule: ScaleSchedule, text: number): Required<Work>[] {
  const { embed_dim: C, text_channels: Ct, vae_embed_dim: D, depth } = config;
  const offsets = scaleOffsets(schedule);
  return schedule.map((scale, k) => {
    const n = scaleTokens(scale);
    const block = blockWork({ width: C, rows: ROWS, queries: n, keys: offsets[k + 1]!, text });
    // The head, whose two rows a bit are folded into one.
    const head = { flops: ROWS * n * 2 * D * C, bytes: HALF * D * C };
    // Of a token: keys and values of every block, the network before them, keys and values of the pool. Of a sample: the rest of
    // the pool, modulations of blocks and head.
    const [ofToken, ofSample] = [depth * 2 * C * C + (Ct + C) * C + 2 * Ct * C, 9 * C * C];
    const conditions = { flops: ROWS * 2 * (text * ofToken + ofSample), bytes: HALF * (ofToken + ofSample) };
    // Codes of the scale before, the same for all samples.
    const embedding = { flops: n * 2 * D * C, bytes: HALF * D * C };
    return total([total([block], depth), head, k === 0 ? conditions : embedding]);
  });
}

/** A prompt of `text` tokens, its matrices in bf16. */
export function textWork(config: T5Config, text: number): Required<Work> {
  const { d_model: C, d_kv, num_heads, d_ff, num_layers } = config;
  const inner = d_kv * num_heads;
  const weights = num_layers * (4 * C * inner + 3 * C * d_ff);
  return {
    flops: text * (2 * weights + num_layers * 4 * text * inner),
    bytes: HALF * weights + 4 * text * C,
  };
}
