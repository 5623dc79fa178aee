/** Which parameters decay. Source: Infinity, infinity/utils/lr_control.py, filter_params. */

const NO_DECAY = [
  'cls_token',
  'start_token',
  'task_token',
  'cfg_uncond',
  'pos_embed',
  'pos_1LC',
  'pos_start',
  'start_pos',
  'lvl_embed',
  'gamma',
  'beta',
  'ada_gss',
  'moe_bias',
  'scale_mul',
  'text_proj_for_sos.ca.mat_q',
];

/** True unless the tensor is one-dimensional, a bias, or one of the named embeddings and gains. */
export function hasWeightDecay(name: string, rank: number): boolean {
  return rank > 1 && !name.endsWith('bias') && !NO_DECAY.some((key) => name.includes(key));
}
