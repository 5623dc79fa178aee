/** Tables of plain numbers: feed-forward widths, learning rate and weight decay over iterations. */
import { lrFactor, weightDecayAt } from '../../../lib/training/lr_schedule.js';
import { ffnHidden, swigluHidden } from '../../../lib/transformer/config.js';
import type { GoldenCase } from '../case.js';

interface WidthRow {
  readonly embed_dim: number;
  readonly mlp_ratio: number;
}

export async function ffnWidths(c: GoldenCase): Promise<void> {
  const { rows } = c.fields<{ rows: readonly WidthRow[] }>();
  rows.forEach(({ embed_dim, mlp_ratio }, i) => {
    c.giveJson(['rows', i, 'ffn_hidden'], ffnHidden(embed_dim, mlp_ratio));
    c.giveJson(['rows', i, 'swiglu_hidden'], swigluHidden(embed_dim, mlp_ratio));
  });
}

interface ScheduleRow {
  readonly sche: string;
  readonly peak_lr: number;
  readonly wd: number;
  readonly wd_end: number;
  readonly wp_it: number;
  readonly max_it: number;
  readonly wp0: number;
  readonly wpe: number;
  readonly it_lr_wd: readonly (readonly [iteration: number, lr: number, weightDecay: number])[];
}

export async function lrSchedule(c: GoldenCase): Promise<void> {
  const { rows } = c.fields<{ rows: readonly ScheduleRow[] }>();
  rows.forEach((row, i) => {
    const options = {
      schedule: row.sche,
      warmupIterations: row.wp_it,
      maxIterations: row.max_it,
      startFactor: row.wp0,
      endFactor: row.wpe,
    };
    const table = row.it_lr_wd.map(([iteration]) => [
      iteration,
      row.peak_lr * lrFactor(iteration, options),
      weightDecayAt(iteration, row.max_it, row.wd, row.wd_end),
    ]);
    c.giveJson(['rows', i, 'it_lr_wd'], table);
  });
}
