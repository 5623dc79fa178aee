/** The T5 encoder's configuration as its tensors tell it, for weights that come without a config.json. */
import { InfinityError } from '../errors.js';
import type { Shape } from '../tensor.js';
import { parseT5Config, type T5Config } from './t5_config.js';

const ATTENTION = 'encoder.block.0.layer.0.SelfAttention';
const DENSE = 'encoder.block.0.layer.1.DenseReluDense';

/** A tensor that every T5 encoder has: its name marks a state dict. */
export const T5_MARK = `${ATTENTION}.relative_attention_bias.weight`;

/**
 * @param shapes names and shapes of a state dict, prefixes removed
 * @param given options of a config.json; each goes before what the tensors say
 * @throws InfinityError CHECKPOINT_INVALID where a tensor that decides is missing, or an option has no valid value
 */
export function inferT5Config(
  shapes: ReadonlyMap<string, Shape>,
  given: Readonly<Record<string, unknown>> = {},
): T5Config {
  const extent = (names: readonly string[], axis: number): number => {
    const n = names.map((name) => shapes.get(name)?.[axis]).find((found) => found !== undefined);
    if (n !== undefined) return n;
    throw new InfinityError('CHECKPOINT_INVALID', `Expected a tensor "${names[0]}" in the T5 encoder but found none.`, {
      value: names[0],
      cure: 'Use a T5 v1.1 encoder with a gated feed-forward layer, such as flan-t5-xl.',
    });
  };
  const num_heads = extent([T5_MARK], 1);
  const embeddings = ['shared.weight', 'encoder.embed_tokens.weight'];
  const blocks = [...shapes.keys()].map((name) => /^encoder\.block\.(\d+)\./.exec(name)?.[1]);
  return parseT5Config({
    d_model: extent(embeddings, 1),
    d_kv: extent([`${ATTENTION}.q.weight`], 0) / num_heads,
    num_heads,
    d_ff: extent([`${DENSE}.wi_0.weight`], 0),
    num_layers: new Set(blocks.filter((block) => block !== undefined)).size,
    vocab_size: extent(embeddings, 0),
    relative_attention_num_buckets: extent([T5_MARK], 0),
    ...given,
  });
}

/** The options that decide tensor `name`. */
export function t5OptionOf(name: string, missing: boolean, { num_layers }: T5Config): string {
  const block = /^encoder\.block\.(\d+)\./.exec(name)?.[1];
  if (block !== undefined && (missing || Number(block) >= num_layers)) return 'num_layers';
  if (/relative_attention_bias/.test(name)) return 'num_heads, relative_attention_num_buckets';
  if (/SelfAttention\./.test(name)) return 'num_heads, d_kv, d_model';
  if (/DenseReluDense\./.test(name)) return 'd_ff, d_model';
  return /shared|embed_tokens/.test(name) ? 'vocab_size, d_model' : 'd_model';
}
