/** The text encoder: hidden states, position buckets and the packed features. */

import { T5Encoder } from '../../../lib/text/t5.js';
import { parseT5Config, relativePositionBucket } from '../../../lib/text/t5_config.js';
import { TextTokenizer } from '../../../lib/text/tokenizer.js';
import { Activations } from '../activations.js';
import { download, list, numbers, upload } from '../array.js';
import type { GoldenCase } from '../case.js';

interface T5Fields {
  readonly config: object;
  readonly tokenizer?: string;
  readonly texts?: readonly string[];
}

/** Names of the batches in the file: `NAME.input_ids` and `NAME.attention_mask`. */
function batches(c: GoldenCase): string[] {
  return c.names('*.input_ids').map((name) => name.slice(0, -'.input_ids'.length));
}

/** Real tokens of every row of a right-padded batch. */
function lengths(c: GoldenCase, batch: string): number[] {
  const mask = c.array(`${batch}.attention_mask`);
  const [B = 0, L = 0] = mask.shape;
  const flags = numbers(mask);
  return Array.from({ length: B }, (_, b) => {
    const row = flags.slice(b * L, (b + 1) * L);
    const length = row.filter(Boolean).length;
    if (row.slice(length).some(Boolean)) throw new Error(`${batch} is not padded on the right`);
    return length;
  });
}

export async function t5Encoder(c: GoldenCase): Promise<void> {
  const { config: json, tokenizer: tokenizerFile, texts } = c.fields<T5Fields>();
  const config = parseT5Config(json);
  using model = new T5Encoder(config);
  model.load(await c.weights());
  for (const batch of batches(c)) {
    const activations = new Activations(c, `${batch}.`);
    const lens = lengths(c, batch);
    using ids = upload(c.array(`${batch}.input_ids`), undefined, 'i32');
    using hidden = model.forward(ids, lens, activations.tap);
    c.give(`${batch}.last_hidden_state`, await download(hidden));
    await activations.give();
  }
  if (c.has('compact.kv_compact')) await packed(c, model);
  if (c.has('bucket.relative_position')) {
    const index = c.numbers('bucket.relative_position').map((delta) => relativePositionBucket(delta, config));
    c.give('bucket.index', index);
  }
  if (texts && tokenizerFile) {
    const tokenizer = await TextTokenizer.fromFile(c.file(tokenizerFile));
    // Texts were cut to the width of their batch.
    const maxLength = c.has('padded.input_ids') ? c.array('padded.input_ids').shape[1] : undefined;
    c.giveJson(
      ['lens'],
      texts.map((text) => tokenizer.encode(text, { maxLength }).ids.length),
    );
  }
}

/** What the transformer receives of the padded batch: the rows of real tokens only. */
async function packed(c: GoldenCase, model: T5Encoder): Promise<void> {
  const { shape, data } = c.array('padded.input_ids');
  const lens = lengths(c, 'padded');
  const ids = Array.from(data as ArrayLike<number>);
  const prompts = lens.map((length, b) => ids.slice(b * shape[1]!, b * shape[1]! + length));
  const features = model.encode(prompts);
  c.give('compact.kv_compact', await download(features.kv_NCt));
  c.give('compact.lens', features.lens);
  const ends = features.lens.map((_, b) => features.lens.slice(0, b + 1).reduce((a, n) => a + n, 0));
  c.give('compact.cu_seqlens_k', list([0, ...ends]));
  features.kv_NCt.dispose();
}
