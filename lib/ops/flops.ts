/** Counts the arithmetic of whatever is submitted to a device, from the commands themselves. */
import type { Device } from '../device.js';
import { type Shape, sizeOf } from '../tensor.js';
import { Op, type OpDefinition } from './generated.js';

/** Words before the operands: op, token, inputs, outputs, params. */
const HEADER = 5;
/** Words of an operand before its extents: handle, dtype, two of offset, rank. */
const OPERAND = 5;

interface Command {
  readonly inputs: readonly Shape[];
  readonly outputs: readonly Shape[];
  readonly params: readonly number[];
}

/** The two operands of a product: every element of the one meets the last axis of the other at every tap. */
type Product = (command: Command) => readonly [elements: Shape, channels: Shape];

const forward: Product = ({ inputs: [x], outputs: [y] }) => [y!, x!];
const gaps: Product = ({ inputs: [x], outputs: [, grad] }) => [grad!, x!];
const drawn: Product = ({ inputs: [x], outputs: [bits] }) => [bits!, x!];
const backwardInput: Product = ({ inputs: [gy], outputs: [gx] }) => [gy!, gx!];
const backwardWeight: Product = ({ inputs: [gy, x] }) => [gy!, x!];

const one = (): number => 1;
const kernel = ({ params: [kh, kw] }: Command): number => kh! * kw!;
/** What a convolution computes counts, with however few multiplications it does. */
const nine = (): number => 9;
/** Of nine taps the phases of an upsampling leave four. */
const phases = (): number => 4;

const products = new Map<number, readonly [Product, (command: Command) => number]>(
  (
    [
      [Op.linear, forward, one],
      [Op.linearPacked, forward, one],
      [Op.linearMeasured, forward, one],
      [Op.linearNormed, forward, one],
      [Op.linearBackwardInput, backwardInput, one],
      [Op.linearBackwardWeight, backwardWeight, one],
      [Op.bitHeadLoss, gaps, one],
      [Op.bitHeadSample, drawn, one],
      [Op.conv2d, forward, kernel],
      [Op.conv2dAdd, forward, kernel],
      [Op.conv2dStats, forward, kernel],
      [Op.conv2dPacked, forward, kernel],
      [Op.conv2dWinograd, forward, nine],
      [Op.conv2dBackwardInput, backwardInput, kernel],
      [Op.conv2dBackwardWeight, backwardWeight, kernel],
      [Op.upsampleConv2d, forward, phases],
      [Op.upsampleConv2dStats, forward, phases],
      [Op.upsampleConv2dPacked, forward, phases],
      [Op.upsampleConv2dWinograd, forward, phases],
      [Op.upsampleConv2dBackwardInput, backwardInput, phases],
      [Op.upsampleConv2dBackwardWeight, backwardWeight, phases],
    ] satisfies [OpDefinition, Product, (command: Command) => number][]
  ).map(([op, product, taps]) => [op.id, [product, taps]]),
);

/** Reads back what `run` wrote for the addon; see lib/ops/run.ts. */
function parse(words: Uint32Array): Command {
  const [, , inputs = 0, outputs = 0, params = 0] = words;
  let at = HEADER;
  const shapes = Array.from({ length: inputs + outputs }, () => {
    const first = at + OPERAND;
    at = first + words[first - 1]!;
    return [...words.subarray(first, at)];
  });
  return {
    inputs: shapes.slice(0, inputs),
    outputs: shapes.slice(inputs),
    params: [...words.subarray(at, at + params)],
  };
}

function flopsOf(words: Uint32Array): number {
  const entry = products.get(words[0]!);
  if (!entry) return 0;
  const [product, taps] = entry;
  const command = parse(words);
  const [elements, channels] = product(command);
  return 2 * sizeOf(elements) * channels.at(-1)! * taps(command);
}

/**
 * Tells `count` of the floating-point operations of every matrix product and convolution that is submitted to the device, until the
 * returned function is called. Attention, norms and everything pointwise count as nothing, so that a fraction of peak made of this
 * number is a lower bound.
 */
export function observeFlops(device: Device, count: (flops: number) => void): () => void {
  const submit = device.submit.bind(device);
  device.submit = () => {
    count(flopsOf(device.words));
    submit();
  };
  return () => {
    Reflect.deleteProperty(device, 'submit');
  };
}

/** The sum of what `observeFlops` tells of `work`. */
export async function countFlops(device: Device, work: () => unknown): Promise<number> {
  let total = 0;
  const stop = observeFlops(device, (flops) => {
    total += flops;
  });
  try {
    await work();
    return total;
  } finally {
    stop();
  }
}
