/** Recorded numbers that decide which scales a quantiser leaves out and which codes change sign. */
import type { Tensor } from '../../../lib/tensor.js';
import { droppedScales, type QuantizerTrainOptions } from '../../../lib/tokenizer/quantizer.js';
import { channelsLast, upload } from '../array.js';
import { CaseError, type GoldenCase } from '../case.js';
import type { QuantizerOptions } from './quantizer_config.js';

/**
 * What the options and the draws of one call decide. The first draw is compared with `disable_flip_prob`, then one a scale with
 * `drop_rate`. The caller disposes `owned`.
 */
export function trainDraws(
  c: GoldenCase,
  options: QuantizerOptions,
  scales: number,
  draws: readonly number[],
): { readonly train: QuantizerTrainOptions; readonly owned: readonly Tensor[] } {
  const [disable = 0, ...perScale] = draws;
  const dropped = options.use_stochastic_depth
    ? droppedScales(perScale.slice(0, scales), {
        rate: Number(options.drop_rate),
        keepFirst: Boolean(options.keep_first_quant),
        keepLast: Boolean(options.keep_last_quant),
      })
    : undefined;
  const { random_flip, random_flip_1lvl, flip_mode = 'stochastic', max_flip_lvl = 1, flip_lvl_idx } = options;
  const flips = (random_flip || random_flip_1lvl) && !(disable < Number(options.disable_flip_prob ?? 0));
  if (!flips) return { train: { dropped }, owned: [] };
  if (flip_mode !== 'stochastic') throw new CaseError(`unknown flip_mode ${String(flip_mode)}`);
  const flipped = (k: number) => (random_flip ? k < Number(max_flip_lvl) : k === flip_lvl_idx);
  const uniform = Array.from({ length: scales }, (_, k) => {
    const name = c.drawsOf('random_flip', 'in.flip_u.{k}', { k });
    if (!flipped(k) || !c.has(name)) return null;
    const u = channelsLast(c.array(name));
    return upload(u, [u.shape[0]!, ...u.shape.slice(2)]);
  });
  return {
    train: { dropped, flips: { probability: Number(options.flip_prob ?? 0.5), draws: uniform } },
    owned: uniform.filter((u) => u !== null),
  };
}
