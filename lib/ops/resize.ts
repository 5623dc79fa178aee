/**
 * Resampling and pixel shuffling of channels-last pictures, as torch's interpolate and pixel_shuffle do it. A picture that
 * already has the asked size is returned as it is.
 */
import { scope, type Tensor } from '../tensor.js';
import { checkShapes, isFloat } from './check.js';
import { Op } from './generated.js';
import { differentiable } from './record.js';
import { run, shaped } from './run.js';
import { permute, reshape } from './shape.js';

export type Size = readonly [height: number, width: number];

/** As in native/ops/resize/resize.h. */
const mode = { area: 0, linear: 1, nearest: 2 } as const;

function resample(x_BHWC: Tensor, [h, w]: Size, kind: keyof typeof mode): Tensor {
  const name = `resize ${kind}`;
  const { shape } = x_BHWC;
  checkShapes(name, x_BHWC.rank === 4 && isFloat(x_BHWC), 'a float [B, H, W, C]', x_BHWC);
  checkShapes(
    name,
    [h, w].every((n) => Number.isSafeInteger(n) && n > 0),
    `a size other than ${h} x ${w}`,
    x_BHWC,
  );
  if (shape[1] === h && shape[2] === w) return x_BHWC;
  const size = [shape[0]!, h, w, shape[3]!];
  const [y] = run(Op.resample, [x_BHWC], [shaped(x_BHWC, size)], [mode[kind], 0]);
  differentiable(name, [x_BHWC], [y!], [], ([gy]) => run(Op.resample, [gy!], [shaped(gy!, shape)], [mode[kind], 1]));
  return y!;
}

/** Means over the windows [floor(i·H/h), ceil((i+1)·H/h)), which overlap where h does not divide H. */
export function resizeArea(x_BHWC: Tensor, size: Size): Tensor {
  return resample(x_BHWC, size, 'area');
}

/** Bilinear with half-pixel centres, clamped at the border, without antialiasing. */
export function resizeLinear(x_BHWC: Tensor, size: Size): Tensor {
  return resample(x_BHWC, size, 'linear');
}

/** Position floor(i·H/h). */
export function resizeNearest(x_BHWC: Tensor, size: Size): Tensor {
  return resample(x_BHWC, size, 'nearest');
}

/** [B, H, W, C] -> [B, H/2, W/2, 4C], output channel 4c + 2dy + dx. */
export function pixelUnshuffle(x_BHWC: Tensor): Tensor {
  const [b = 0, h = 1, w = 1, c = 0] = x_BHWC.shape;
  const ok = x_BHWC.rank === 4 && h % 2 === 0 && w % 2 === 0;
  checkShapes('pixel_unshuffle', ok, 'an even height and width of [B, H, W, C]', x_BHWC);
  return scope(() => {
    const cells = permute(reshape(x_BHWC, [b, h / 2, 2, w / 2, 2, c]), [0, 1, 3, 5, 2, 4]);
    return reshape(cells, [b, h / 2, w / 2, 4 * c]);
  });
}

/** The inverse of `pixelUnshuffle`: [B, h, w, 4C] -> [B, 2h, 2w, C]. */
export function pixelShuffle(x_Bhw4C: Tensor): Tensor {
  const [b = 0, h = 0, w = 0, c4 = 1] = x_Bhw4C.shape;
  checkShapes('pixel_shuffle', x_Bhw4C.rank === 4 && c4 % 4 === 0, 'channels in fours of [B, h, w, 4C]', x_Bhw4C);
  return scope(() => {
    const cells = permute(reshape(x_Bhw4C, [b, h, w, c4 / 4, 2, 2]), [0, 1, 4, 2, 5, 3]);
    return reshape(cells, [b, 2 * h, 2 * w, c4 / 4]);
  });
}
