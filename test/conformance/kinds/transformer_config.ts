/** The network that a transformer case names, loaded from its file. */

import { finestGrid, nearestTemplate, type ScaleSchedule, templateSchedule } from '../../../lib/tokenizer/schedule.js';
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
  /** The ratio's template, which names that schedule too. A short schedule alone does not: many begin 1, 2. */
  readonly h_div_w?: number;
  readonly h_div_w_template?: number;
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

export function finestOf(fields: TransformerFields): readonly [number, number] | undefined {
  const { rope_reference_schedule_1M, h_div_w_template, h_div_w = h_div_w_template } = fields;
  if (rope_reference_schedule_1M) return finestGrid(rope_reference_schedule_1M);
  return h_div_w === undefined ? undefined : finestGrid(templateSchedule(nearestTemplate(h_div_w, 1), '1M'));
}
