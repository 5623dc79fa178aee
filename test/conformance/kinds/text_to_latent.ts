/** From a text to the input of the image decoder: ids, features, generation. */

import { T5Encoder } from '../../../lib/text/t5.js';
import { parseT5Config } from '../../../lib/text/t5_config.js';
import { TextTokenizer } from '../../../lib/text/tokenizer.js';
import { download, upload } from '../array.js';
import type { GoldenCase } from '../case.js';
import { type SampleFields, SampleRun } from './sample.js';
import { loadTransformer } from './transformer_config.js';

interface TextFields extends SampleFields {
  readonly text: string;
  readonly tokenizer: string;
  readonly t5_config: object;
  readonly t5_weights_file: string;
}

/** Fills a row up to the stored width with the padding id, which is 0 as in every T5 vocabulary. */
function padded(values: readonly number[], width: number): { shape: number[]; data: Float64Array } {
  const data = new Float64Array(width);
  data.set(values);
  return { shape: [1, width], data };
}

export async function textToLatent(c: GoldenCase): Promise<void> {
  const fields = c.fields<TextFields>();
  const tokenizer = await TextTokenizer.fromFile(c.file(fields.tokenizer));
  const width = c.array('input_ids').shape[1]!;
  const { ids } = tokenizer.encode(fields.text, { maxLength: width });
  c.give('input_ids', padded(ids, width));
  c.give('attention_mask', padded(new Array<number>(ids.length).fill(1), width));

  using encoder = new T5Encoder(parseT5Config(fields.t5_config));
  encoder.load(await c.weights('', fields.t5_weights_file));
  const own = encoder.encode([ids]);
  using ownRows = own.kv_NCt;
  c.give('kv_compact', await download(own.kv_NCt));

  using model = await loadTransformer(c);
  const run = new SampleRun(c, fields, model);
  const { features_forced_from } = fields.replay;
  if (features_forced_from) {
    using kv_NCt = upload(c.array(features_forced_from));
    await run.forced({ kv_NCt, lens: own.lens });
  } else {
    await run.forced(own);
  }
  await run.free(own);
  ownRows.dispose();
}
