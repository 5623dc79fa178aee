/** Tables of plain numbers: feed-forward widths. */
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
