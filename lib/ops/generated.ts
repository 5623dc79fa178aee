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
  broadcastTo: { id: 3, name: 'broadcast_to', inputs: 1, outputs: 1, params: '' },
  scale: { id: 4, name: 'scale', inputs: 1, outputs: 1, params: 'f' },
  addScalar: { id: 5, name: 'add_scalar', inputs: 1, outputs: 1, params: 'f' },
  clamp: { id: 6, name: 'clamp', inputs: 1, outputs: 1, params: 'ff' },
  clampBackward: { id: 7, name: 'clamp_backward', inputs: 2, outputs: 1, params: 'ff' },
  exp: { id: 8, name: 'exp', inputs: 1, outputs: 1, params: '' },
  abs: { id: 9, name: 'abs', inputs: 1, outputs: 1, params: '' },
  absBackward: { id: 10, name: 'abs_backward', inputs: 2, outputs: 1, params: '' },
  square: { id: 11, name: 'square', inputs: 1, outputs: 1, params: '' },
  squareBackward: { id: 12, name: 'square_backward', inputs: 2, outputs: 1, params: '' },
  sigmoid: { id: 13, name: 'sigmoid', inputs: 1, outputs: 1, params: '' },
  sigmoidBackward: { id: 14, name: 'sigmoid_backward', inputs: 2, outputs: 1, params: '' },
  gelu: { id: 15, name: 'gelu', inputs: 1, outputs: 1, params: '' },
  geluBackward: { id: 16, name: 'gelu_backward', inputs: 2, outputs: 1, params: '' },
  silu: { id: 17, name: 'silu', inputs: 1, outputs: 1, params: '' },
  siluBackward: { id: 18, name: 'silu_backward', inputs: 2, outputs: 1, params: '' },
  swiglu: { id: 19, name: 'swiglu', inputs: 2, outputs: 1, params: '' },
  swigluBackward: { id: 20, name: 'swiglu_backward', inputs: 3, outputs: 2, params: '' },
  sumAxes: { id: 21, name: 'sum_axes', inputs: 1, outputs: 1, params: 'uuu' },
  linear: { id: 22, name: 'linear', inputs: 5, outputs: 1, params: 'u' },
  linearPacked: { id: 23, name: 'linear_packed', inputs: 5, outputs: 1, params: 'uu' },
  packLinear: { id: 24, name: 'pack_linear', inputs: 1, outputs: 1, params: '' },
  linearBackwardInput: { id: 25, name: 'linear_backward_input', inputs: 2, outputs: 1, params: '' },
  linearBackwardWeight: { id: 26, name: 'linear_backward_weight', inputs: 2, outputs: 2, params: '' },
  fmaProbe: { id: 27, name: 'fma_probe', inputs: 1, outputs: 1, params: 'u' },
  conv2d: { id: 28, name: 'conv2d', inputs: 3, outputs: 1, params: 'uuuuu' },
  conv2dPacked: { id: 29, name: 'conv2d_packed', inputs: 3, outputs: 1, params: 'uuuuu' },
  packConv2d: { id: 30, name: 'pack_conv2d', inputs: 1, outputs: 1, params: '' },
  conv2dBackwardInput: { id: 31, name: 'conv2d_backward_input', inputs: 2, outputs: 1, params: 'uuuuu' },
  conv2dBackwardWeight: { id: 32, name: 'conv2d_backward_weight', inputs: 2, outputs: 2, params: 'uuuuu' },
  upsampleConv2d: { id: 33, name: 'upsample_conv2d', inputs: 3, outputs: 1, params: '' },
  upsampleConv2dPacked: { id: 34, name: 'upsample_conv2d_packed', inputs: 3, outputs: 1, params: '' },
  packUpsampleConv2d: { id: 35, name: 'pack_upsample_conv2d', inputs: 1, outputs: 1, params: '' },
  upsampleConv2dBackwardInput: { id: 36, name: 'upsample_conv2d_backward_input', inputs: 2, outputs: 1, params: '' },
  upsampleConv2dBackwardWeight: { id: 37, name: 'upsample_conv2d_backward_weight', inputs: 2, outputs: 2, params: '' },
  layerNorm: { id: 38, name: 'layer_norm', inputs: 3, outputs: 2, params: 'f' },
  layerNormBackward: { id: 39, name: 'layer_norm_backward', inputs: 4, outputs: 3, params: '' },
  adaNorm: { id: 40, name: 'ada_norm', inputs: 3, outputs: 2, params: 'f' },
  adaNormBackward: { id: 41, name: 'ada_norm_backward', inputs: 4, outputs: 3, params: '' },
  rmsNorm: { id: 42, name: 'rms_norm', inputs: 2, outputs: 2, params: 'f' },
  rmsNormBackward: { id: 43, name: 'rms_norm_backward', inputs: 4, outputs: 2, params: '' },
  gatedAdd: { id: 44, name: 'gated_add', inputs: 3, outputs: 1, params: '' },
  gatedAddBackward: { id: 45, name: 'gated_add_backward', inputs: 3, outputs: 2, params: '' },
  groupNorm: { id: 46, name: 'group_norm', inputs: 3, outputs: 2, params: 'ufu' },
  groupNormBackward: { id: 47, name: 'group_norm_backward', inputs: 5, outputs: 3, params: 'ufu' },
  slice: { id: 48, name: 'slice', inputs: 1, outputs: 1, params: 'uuu' },
  writeSlice: { id: 49, name: 'write_slice', inputs: 1, outputs: 1, params: 'uu' },
  fill: { id: 50, name: 'fill', inputs: 0, outputs: 1, params: 'f' },
  pad: { id: 51, name: 'pad', inputs: 1, outputs: 1, params: 'uuf' },
  permute: { id: 52, name: 'permute', inputs: 1, outputs: 1, params: 'uuuuuu' },
  cast: { id: 53, name: 'cast', inputs: 1, outputs: 1, params: '' },
  embedding: { id: 54, name: 'embedding', inputs: 2, outputs: 1, params: '' },
  embeddingBackward: { id: 55, name: 'embedding_backward', inputs: 2, outputs: 1, params: '' },
} as const satisfies Record<string, OpDefinition>;
