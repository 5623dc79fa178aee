/** The official options of the multi-scale quantiser as this library's configuration. */
import type { QuantizerConfig } from '../../../lib/tokenizer/quantizer.js';
import { CaseError } from '../case.js';

export type QuantizerOptions = Readonly<Record<string, unknown>>;

/** Options that belong to training draws or to the schedule, which the kinds read themselves, or that act in no released code. */
const ELSEWHERE = [
  'codebook_dim',
  'dim',
  'codebook_scale',
  'schedule_mode',
  'use_stochastic_depth',
  'drop_rate',
  'keep_first_quant',
  'keep_last_quant',
  'random_flip',
  'flip_prob',
  'flip_mode',
  'max_flip_lvl',
  'disable_flip_prob',
  'entropy_loss_weight',
  'diversity_gamma',
];

/** @throws CaseError on an option that is set and that nothing here implements */
export function quantizerConfig(codebookDim: number, options: QuantizerOptions = {}): QuantizerConfig {
  const used = new Set<string>(ELSEWHERE);
  const option = <T>(name: string): T | undefined => {
    used.add(name);
    return (options[name] as T | null | undefined) ?? undefined;
  };
  if (Number(options.codebook_scale ?? 1) !== 1)
    throw new CaseError(`codebook_scale ${options.codebook_scale} is not known`);
  const bySqrt = option<boolean>('ln_init_by_sqrt');
  const config: QuantizerConfig = {
    codebookDim,
    dim: (options.dim as number | undefined) ?? codebookDim,
    layerNorm: option<boolean>('ln_before_quant') ? (bySqrt ? 'bySqrt' : true) : false,
    decayFactor: option<boolean>('use_decay_factor'),
    removeResidualDetach: option<boolean>('remove_residual_detach'),
    newQuant: option<boolean>('new_quant'),
    commitmentWeight: option<number>('commitment_loss_weight'),
    zeta: option<number>('zeta'),
    gamma0: option<number>('gamma0'),
    gamma: option<number>('gamma'),
    inverseTemperature: option<number>('inv_temperature'),
  };
  for (const [name, value] of Object.entries(options))
    if (value && !used.has(name)) throw new CaseError(`the quantiser's option ${name} is not known`);
  return config;
}
