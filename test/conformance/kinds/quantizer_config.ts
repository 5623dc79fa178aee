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

/** Options that `quantizerConfig` turns into its own. */
const UNDERSTOOD = [
  'ln_init_by_sqrt',
  'ln_before_quant',
  'use_decay_factor',
  'remove_residual_detach',
  'new_quant',
  'commitment_loss_weight',
  'zeta',
  'gamma0',
  'gamma',
  'inv_temperature',
];

/** Those of a trainer's options that are the quantiser's. */
export function pickQuantizerOptions(args: QuantizerOptions): QuantizerOptions {
  return Object.fromEntries(Object.entries(args).filter(([name]) => [...UNDERSTOOD, ...ELSEWHERE].includes(name)));
}

/** @throws CaseError on an option that is set and that nothing here implements */
export function quantizerConfig(codebookDim: number, options: QuantizerOptions = {}): QuantizerConfig {
  const option = <T>(name: (typeof UNDERSTOOD)[number]): T | undefined =>
    (options[name] as T | null | undefined) ?? undefined;
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
    if (value && !UNDERSTOOD.includes(name) && !ELSEWHERE.includes(name))
      throw new CaseError(`the quantiser's option ${name} is not known`);
  return config;
}
