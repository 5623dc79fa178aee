/**
 * Random fills. Key = seed, counter = (element / 4, scale, image, stream), the element counted inside one image: a draw is the
 * same in any batch and on any device. These ops have no inputs and so no gradient.
 */
import type { Device } from '../device.js';
import { invalidArgument } from '../errors.js';
import { seedWords } from '../philox.js';
import { type Shape, Tensor } from '../tensor.js';
import { checkShapes } from './check.js';
import { Op } from './generated.js';
import { run } from './run.js';

/** What a draw depends on, and the type it comes in. */
export interface DrawKey {
  /** 64 bits: a bigint, or a safe integer, from 0. */
  readonly seed: bigint | number;
  /** The scale the draw belongs to, from 0. */
  readonly scale?: number;
  /** One image id for the whole tensor, or i32 [B]: an id for each entry of axis 0, whose elements are counted apart. */
  readonly image?: number | Tensor;
  /** What the draw is for: users of one seed take different streams. */
  readonly stream?: number;
  readonly dtype?: 'f32' | 'f64';
  readonly device?: Device;
}

function word(name: string, value: number): number {
  if (!Number.isInteger(value) || value < 0 || value >= 2 ** 32) invalidArgument(name, 'an integer of 32 bits', value);
  return value;
}

function draw(op: typeof Op.uniform | typeof Op.normal, shape: Shape, key: DrawKey, extra: readonly number[]): Tensor {
  const { seed, scale = 0, image = 0, stream = 0, dtype = 'f32' } = key;
  const ids = image instanceof Tensor ? image : null;
  if (ids)
    checkShapes(op.name, ids.dtype === 'i32' && ids.rank === 1 && ids.size === shape[0], 'one i32 image id a row', ids);
  const params = [
    ...seedWords(seed),
    word('scale', scale),
    ids ? 0 : word('image', image as number),
    word('stream', stream),
    ...extra,
  ];
  const y = Tensor.empty(shape, dtype, key.device ?? ids?.device);
  run(op, [ids], [y], params);
  return y;
}

/** Uniform in [0, 1), with 24 random bits. */
export function uniform(shape: Shape, key: DrawKey): Tensor {
  return draw(Op.uniform, shape, key, []);
}

/**
 * Normal with the given mean and standard deviation, restricted to [lo, hi] when given (the truncated normal of
 * torch.nn.init.trunc_normal_).
 */
export function normal(
  shape: Shape,
  key: DrawKey & { readonly mean?: number; readonly std?: number; readonly lo?: number; readonly hi?: number },
): Tensor {
  const { mean = 0, std = 1, lo = -Infinity, hi = Infinity } = key;
  if (!Number.isFinite(mean)) invalidArgument('mean', 'a finite number', mean);
  if (!(std > 0 && Number.isFinite(std))) invalidArgument('std', 'a positive number', std);
  if (!(lo < hi)) invalidArgument('the range of normal', 'lo < hi', [lo, hi]);
  return draw(Op.normal, shape, key, [mean, std, lo, hi]);
}
