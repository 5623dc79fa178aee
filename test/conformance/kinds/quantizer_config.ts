/** The official options of the multi-scale quantiser as this library's configuration. */
import type { QuantizerConfig } from '../../../lib/tokenizer/quantizer.js';
import { CaseError } from '../case.js';

export type QuantizerOptions = Readonly<Record<string, unknown>>;

/** Options that belong to training draws or to the schedule, which the kinds read themselves. */
const ELSEWHERE = [
  'codebook_dim',
  'codebook_size',
  'dim',
  'schedule_mode',
  'use_stochastic_depth',
  'drop_rate',
  'keep_first_quant',
  'keep_last_quant',
  'random_flip',
  'random_flip_1lvl',
  'flip_lvl_idx',
  'flip_prob',
  'flip_mode',
  'max_flip_lvl',
  'disable_flip_prob',
];

/** Options that the official classes take and never use, or that say what holds anyway: codes are normalised whatever their scale. */
const WITHOUT_EFFECT = [
  'aux_loss',
  'codebook_scale',
  'diversity_gamma',
  'entropy_loss_offset',
  'entropy_loss_weight',
  'experimental_softplus_entropy_loss',
  'force_quantization_f32',
  'frac_per_sample_entropy',
  'mask_out',
  'preserve_norm',
  'short_schedule_prob',
  'soft_clamp_input_value',
  'spherical',
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

const KNOWN = [...UNDERSTOOD, ...ELSEWHERE, ...WITHOUT_EFFECT];

/** Those of a trainer's options that are the quantiser's. */
export function pickQuantizerOptions(args: QuantizerOptions): QuantizerOptions {
  return Object.fromEntries(Object.entries(args).filter(([name]) => KNOWN.includes(name)));
}

/** @throws CaseError on an option that is set and that nothing here implements */
export function refuseUnknown(options: QuantizerOptions, known: readonly string[] = KNOWN): void {
  // One codebook is what there is.
  for (const [name, value] of Object.entries(options))
    if (value && !known.includes(name) && !(name === 'num_codebooks' && value === 1))
      throw new CaseError(`the quantiser's option ${name} is not known`);
}

/** @throws CaseError on an option that is set and that nothing here implements */
export function quantizerConfig(codebookDim: number, options: QuantizerOptions = {}): QuantizerConfig {
  const option = <T>(name: (typeof UNDERSTOOD)[number]): T | undefined =>
    (options[name] as T | null | undefined) ?? undefined;
  refuseUnknown(options);
  const bySqrt = option<boolean>('ln_init_by_sqrt');
  return {
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
}
