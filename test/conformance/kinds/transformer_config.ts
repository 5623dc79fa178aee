/** The network that a transformer case names, loaded from its file. */

import { finestGrid, type ScaleSchedule } from '../../../lib/tokenizer/schedule.js';
import { type InfinityConfig, parseInfinityConfig } from '../../../lib/transformer/config.js';
import { InfinityTransformer } from '../../../lib/transformer/infinity.js';
import type { TextFeatures } from '../../../lib/transformer/text.js';
import { upload } from '../array.js';
import type { GoldenCase } from '../case.js';

/** The fields that every case with a transformer has. */
export interface TransformerFields {
  readonly config_overrides?: object;
  readonly scale_schedule: ScaleSchedule;
  /** The largest schedule of the ratio: its last grid is what rotary positions are stretched to. */
  readonly rope_reference_schedule_1M?: ScaleSchedule;
}

export async function transformerConfig(c: GoldenCase): Promise<InfinityConfig> {
  const { config } = await c.weightsCase<{ config: object }>();
  return parseInfinityConfig({ ...config, ...c.fields<TransformerFields>().config_overrides });
}

/** The caller disposes it. */
export async function loadTransformer(c: GoldenCase): Promise<InfinityTransformer> {
  const model = new InfinityTransformer(await transformerConfig(c));
  try {
    return model.load(await c.weights());
  } catch (error) {
    model.dispose();
    throw error;
  }
}

/** Packed text features from `PREFIXkv_compact` and `PREFIXlens`. */
export function textFeatures(c: GoldenCase, prefix = ''): TextFeatures {
  return { kv_NCt: upload(c.array(`${prefix}kv_compact`)), lens: c.numbers(`${prefix}lens`) };
}

export function finestOf({ rope_reference_schedule_1M }: TransformerFields): readonly [number, number] | undefined {
  return rope_reference_schedule_1M && finestGrid(rope_reference_schedule_1M);
}
