/** Scale tables of the tokenizer and of the transformer. */

import {
  nearestTemplate,
  type PixelBudget,
  pixelSize,
  type ScaleSchedule,
  TEMPLATE_RATIOS,
  templateSchedule,
  tokenCount,
  withVideoTime,
} from '../../../lib/tokenizer/schedule.js';
import { DYNAMIC_SCHEDULES, type ScheduleMode, tokenizerSchedule } from '../../../lib/tokenizer/schedule_modes.js';
import type { GoldenCase } from '../case.js';

interface Size {
  readonly height: number;
  readonly width: number;
}

/** A table with the listed keys: a case may hold a part of the published one. */
function mapped<T>(
  listed: Readonly<Record<string, T>>,
  value: (key: string, listed: T) => unknown,
): Record<string, unknown> {
  return Object.fromEntries(Object.entries(listed).map(([key, entry]) => [key, value(key, entry)]));
}

interface TokenizerTables {
  readonly nearest_template?: readonly Size[];
  readonly dynamic_resolution_h_w?: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  readonly tokenizer_table_dynamic?: Readonly<Record<string, unknown>>;
  readonly tokenizer_modes?: Readonly<Record<string, unknown>>;
  readonly bitvae_modes?: Readonly<Record<string, unknown>>;
}

/** The schedule of "mode:HxW". */
function modeSchedule(key: string): ScaleSchedule {
  const [, mode, h, w] = /^(\w+):(\d+)x(\d+)$/.exec(key) ?? [];
  return tokenizerSchedule(mode as ScheduleMode, Number(h), Number(w));
}

export async function schedulesTokenizer(c: GoldenCase): Promise<void> {
  const {
    nearest_template = [],
    dynamic_resolution_h_w = {},
    tokenizer_table_dynamic = {},
    tokenizer_modes = {},
    bitvae_modes = {},
  } = c.fields<TokenizerTables>();
  c.giveJson(['templates_in_order'], TEMPLATE_RATIOS);
  c.giveJson(
    ['dynamic_resolution_h_w'],
    mapped(dynamic_resolution_h_w, (ratio, budgets) =>
      mapped(budgets, (budget) => {
        const schedule = templateSchedule(Number(ratio), budget as PixelBudget);
        return { pixel: pixelSize(schedule), scales: withVideoTime(schedule) };
      }),
    ),
  );
  c.giveJson(
    ['tokenizer_table_dynamic'],
    mapped(tokenizer_table_dynamic, (grid) => DYNAMIC_SCHEDULES.get(grid)?.map(([, h, w]) => [h, w])),
  );
  c.giveJson(['tokenizer_modes'], mapped(tokenizer_modes, modeSchedule));
  c.giveJson(['bitvae_modes'], mapped(bitvae_modes, modeSchedule));
  nearest_template.forEach(({ height, width }, i) => {
    c.giveJson(['nearest_template', i, 'template'], nearestTemplate(height, width));
  });
}

interface TransformerTables {
  readonly nearest_template?: readonly Size[];
  readonly schedules?: readonly { readonly h_div_w: number; readonly pn: PixelBudget }[];
}

export async function schedulesTransformer(c: GoldenCase): Promise<void> {
  const { nearest_template = [], schedules = [] } = c.fields<TransformerTables>();
  c.giveJson(['template_order'], TEMPLATE_RATIOS);
  nearest_template.forEach(({ height, width }, i) => {
    c.giveJson(['nearest_template', i, 'h_div_w_template'], nearestTemplate(height, width));
  });
  schedules.forEach(({ h_div_w, pn }, i) => {
    const scales = templateSchedule(h_div_w, pn);
    c.giveJson(['schedules', i, 'pixel'], pixelSize(scales));
    c.giveJson(['schedules', i, 'tokens'], tokenCount(scales));
    c.giveJson(['schedules', i, 'scales'], scales);
  });
}
