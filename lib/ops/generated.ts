// Generated from native/ops.def by scripts/generate-ops.mjs. Do not edit.

/** An op as the native side knows it; `params` holds one letter a word: u unsigned, i signed, f float. */
export interface OpDefinition {
  readonly id: number;
  readonly name: string;
  readonly inputs: number;
  readonly outputs: number;
  readonly params: string;
}

export const Op = {
  add: { id: 0, name: 'add', inputs: 2, outputs: 1, params: '' },
  sub: { id: 1, name: 'sub', inputs: 2, outputs: 1, params: '' },
  mul: { id: 2, name: 'mul', inputs: 2, outputs: 1, params: '' },
  scale: { id: 3, name: 'scale', inputs: 1, outputs: 1, params: 'f' },
  gelu: { id: 4, name: 'gelu', inputs: 1, outputs: 1, params: '' },
  geluBackward: { id: 5, name: 'gelu_backward', inputs: 2, outputs: 1, params: '' },
  silu: { id: 6, name: 'silu', inputs: 1, outputs: 1, params: '' },
  siluBackward: { id: 7, name: 'silu_backward', inputs: 2, outputs: 1, params: '' },
  sumTo: { id: 8, name: 'sum_to', inputs: 1, outputs: 1, params: '' },
  linear: { id: 9, name: 'linear', inputs: 5, outputs: 1, params: 'u' },
  linearPacked: { id: 10, name: 'linear_packed', inputs: 5, outputs: 1, params: 'uu' },
  packLinear: { id: 11, name: 'pack_linear', inputs: 1, outputs: 1, params: '' },
  linearBackwardInput: { id: 12, name: 'linear_backward_input', inputs: 2, outputs: 1, params: '' },
  linearBackwardWeight: { id: 13, name: 'linear_backward_weight', inputs: 2, outputs: 2, params: '' },
  fmaProbe: { id: 14, name: 'fma_probe', inputs: 1, outputs: 1, params: 'u' },
  conv2d: { id: 15, name: 'conv2d', inputs: 3, outputs: 1, params: 'uuuuu' },
  conv2dPacked: { id: 16, name: 'conv2d_packed', inputs: 3, outputs: 1, params: 'uuuuu' },
  packConv2d: { id: 17, name: 'pack_conv2d', inputs: 1, outputs: 1, params: '' },
  conv2dBackwardInput: { id: 18, name: 'conv2d_backward_input', inputs: 2, outputs: 1, params: 'uuuuu' },
  conv2dBackwardWeight: { id: 19, name: 'conv2d_backward_weight', inputs: 2, outputs: 2, params: 'uuuuu' },
  upsampleConv2d: { id: 20, name: 'upsample_conv2d', inputs: 3, outputs: 1, params: '' },
  upsampleConv2dPacked: { id: 21, name: 'upsample_conv2d_packed', inputs: 3, outputs: 1, params: '' },
  packUpsampleConv2d: { id: 22, name: 'pack_upsample_conv2d', inputs: 1, outputs: 1, params: '' },
  upsampleConv2dBackwardInput: { id: 23, name: 'upsample_conv2d_backward_input', inputs: 2, outputs: 1, params: '' },
  upsampleConv2dBackwardWeight: { id: 24, name: 'upsample_conv2d_backward_weight', inputs: 2, outputs: 2, params: '' },
  layerNorm: { id: 25, name: 'layer_norm', inputs: 3, outputs: 2, params: 'f' },
  layerNormBackward: { id: 26, name: 'layer_norm_backward', inputs: 4, outputs: 3, params: '' },
  adaNorm: { id: 27, name: 'ada_norm', inputs: 3, outputs: 2, params: 'f' },
  adaNormBackward: { id: 28, name: 'ada_norm_backward', inputs: 4, outputs: 3, params: '' },
  rmsNorm: { id: 29, name: 'rms_norm', inputs: 2, outputs: 2, params: 'f' },
  rmsNormBackward: { id: 30, name: 'rms_norm_backward', inputs: 4, outputs: 2, params: '' },
  gatedAdd: { id: 31, name: 'gated_add', inputs: 3, outputs: 1, params: '' },
  gatedAddBackward: { id: 32, name: 'gated_add_backward', inputs: 3, outputs: 2, params: '' },
  groupNorm: { id: 33, name: 'group_norm', inputs: 3, outputs: 2, params: 'ufu' },
  groupNormBackward: { id: 34, name: 'group_norm_backward', inputs: 5, outputs: 3, params: 'ufu' },
} as const satisfies Record<string, OpDefinition>;
