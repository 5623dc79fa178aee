/** The one way a command is submitted. An op file is its shape rule, its submit and its gradient. */
import type { Device } from '../device.js';
import { InfinityError } from '../errors.js';
import { type DType, dtypeCode, type Shape, sizeOf, Tensor } from '../tensor.js';
import type { OpDefinition } from './generated.js';

/** What an op writes: a new tensor of this type and shape, or an existing one in place. */
export type OutputSpec = { readonly dtype: DType; readonly shape: Shape } | Tensor;

/** An output in the type and shape of x. */
export const like = (x: Tensor): OutputSpec => ({ dtype: x.dtype, shape: x.shape });
/** An output in the type of x. */
export const shaped = (x: Tensor, shape: Shape): OutputSpec => ({ dtype: x.dtype, shape });

/** The type of sums and measures of x, and of parameters and their gradients beside it: f64 of f64, else f32. */
export const statistic = (x: { readonly dtype: DType }): 'f32' | 'f64' => (x.dtype === 'f64' ? 'f64' : 'f32');

function writeOperand(device: Device, at: number, handle: number, dtype: DType, offset: number, shape: Shape): number {
  const { words } = device;
  words[at] = handle;
  words[at + 1] = dtypeCode[dtype];
  words[at + 2] = offset >>> 0;
  words[at + 3] = Math.floor(offset / 2 ** 32);
  words[at + 4] = shape.length;
  for (let i = 0; i < shape.length; i++) words[at + 5 + i] = shape[i]!;
  return at + 5 + shape.length;
}

/**
 * Submits one command and returns its outputs at once; they are filled in the order of the queue.
 * @param inputs null where an optional operand is left out
 * @throws InfinityError OUT_OF_MEMORY, DISPOSED, UNSUPPORTED_DTYPE, INVALID_SHAPE (an empty output)
 */
export function run(
  op: OpDefinition,
  inputs: readonly (Tensor | null | undefined)[],
  outputs: readonly OutputSpec[],
  params: readonly number[] = [],
): Tensor[] {
  const first = inputs.find((t) => t != null) ?? outputs.find((o) => o instanceof Tensor);
  const described =
    (op.inputs === 'many' || inputs.length === op.inputs) &&
    (op.outputs === 'many' || outputs.length === op.outputs) &&
    params.length === op.params.length;
  if (!first || !described)
    throw new InfinityError(
      'INTERNAL',
      `The op '${op.name}' was submitted with operands that ops.def does not describe.`,
    );
  const { device } = first as Tensor;
  const { words, floats, ints } = device;
  words[0] = op.id;
  words[2] = inputs.length;
  words[3] = outputs.length;
  words[4] = params.length;
  let at = 5;
  for (const t of inputs) {
    if (t && t.device !== device)
      throw new InfinityError('INVALID_ARGUMENT', `The op '${op.name}' was given tensors of two devices.`);
    at = t
      ? writeOperand(device, at, t.handle, t.dtype, t.byteOffset, t.shape)
      : writeOperand(device, at, 0, 'f32', 0, []);
  }
  for (const o of outputs) {
    if (o instanceof Tensor) {
      at = writeOperand(device, at, o.handle, o.dtype, o.byteOffset, o.shape);
    } else {
      if (sizeOf(o.shape) === 0) refuseEmpty(op, o.shape);
      at = writeOperand(device, at, 0, o.dtype, 0, o.shape);
    }
  }
  for (let i = 0; i < params.length; i++) {
    const kind = op.params[i];
    if (kind === 'f') floats[at + i] = params[i]!;
    else if (kind === 'i') ints[at + i] = params[i]!;
    else words[at + i] = params[i]!;
  }
  device.submit();
  const handles = words.slice(0, outputs.length);
  return outputs.map((o, i) => (o instanceof Tensor ? o : Tensor.adopt(device, handles[i]!, o.dtype, o.shape)));
}

function refuseEmpty(op: OpDefinition, shape: Shape): never {
  throw new InfinityError('INVALID_SHAPE', `The op '${op.name}' would make an empty tensor [${shape.join(', ')}].`, {
    value: shape,
    cure: 'An empty batch has nothing to compute: leave the call out.',
  });
}
