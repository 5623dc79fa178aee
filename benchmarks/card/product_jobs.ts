/** Matrix products and convolutions on a card, operands and results in bf16. */
import { conv2d, upsampleConv2d } from '../../lib/ops/conv.js';
import { Op } from '../../lib/ops/generated.js';
import { linear, packLinear } from '../../lib/ops/linear.js';
import { linearMeasured, linearNormed } from '../../lib/ops/linear_norm.js';
import { adaNorm } from '../../lib/ops/norm.js';
import { run, shaped } from '../../lib/ops/run.js';
import type { CaseOf } from './cases.js';
import { HALF, type Job, randomOn } from './measure.js';

const NORM = { eps: 1e-6, centred: true };

export function products({ rows, out, inputs, epilogue }: CaseOf<'linear'>): Job {
  const residual = epilogue === 'residual' ? rows * out : 0;
  return {
    flops: 2 * rows * out * inputs,
    bytes: HALF * (rows * inputs + out * inputs + rows * out + residual),
    prepare: (device) => {
      const x = randomOn(device, [2, rows / 2, inputs]);
      const w = randomOn(device, [out, inputs], 'bf16', 0.02);
      const b = randomOn(device, [out], 'f32');
      const operands = [x, w, b];
      if (epilogue === 'none') return { operands, call: () => linear(x, w, b) };
      if (epilogue === 'gelu') return { operands, call: () => linear(x, w, b, { gelu: true }) };
      const [base, gate] = [randomOn(device, [2, rows / 2, out]), randomOn(device, [2, 1, out])];
      return { operands: [...operands, base, gate], call: () => linear(x, w, b, { residual: base, gate }) };
    },
  };
}

export function productsAroundNorm({ rows, width: C, out, folded }: CaseOf<'products_around_norm'>): Job {
  return {
    flops: 2 * rows * C * (C + out),
    bytes: HALF * (4 * rows * C + C * (C + out) + rows * out),
    prepare: (device) => {
      const [x, base, gate] = [
        [2, rows / 2, C],
        [2, rows / 2, C],
        [2, 1, C],
      ].map((shape) => randomOn(device, shape));
      const [scale, shift] = [randomOn(device, [2, 1, C]), randomOn(device, [2, 1, C])];
      const [affine, projected] = [randomOn(device, [2, 2, C], 'f32'), randomOn(device, [2, 2, out], 'f32')];
      const weights = [C, out].map((n) => randomOn(device, [n, C], 'bf16', 0.02));
      const [first, second] = weights.map((w) => packLinear(w, { dtype: 'bf16' }));
      const onto = { residual: base!, gate: gate! };
      const call = folded
        ? () => linearNormed(linearMeasured(x!, first!, null, onto, affine), second!, null, projected, NORM)
        : () => linear(adaNorm(linear(x!, first!, null, onto), scale, shift, NORM.eps), second!);
      return {
        operands: [x!, base!, gate!, scale, shift, affine, projected, ...weights, first!.packed, second!.packed],
        call,
      };
    },
  };
}

export function productGradients({ rows, out, inputs }: CaseOf<'linear_backward'>): Job {
  return {
    flops: 4 * rows * out * inputs,
    bytes: HALF * (2 * rows * out + 2 * rows * inputs + out * inputs) + 4 * out * inputs,
    prepare: (device) => {
      const [gy, x, w] = [
        randomOn(device, [rows, out]),
        randomOn(device, [rows, inputs]),
        randomOn(device, [out, inputs]),
      ];
      const parameters = [
        { dtype: 'f32', shape: [out, inputs] },
        { dtype: 'f32', shape: [out] },
      ] as const;
      const call = () => {
        run(Op.linearBackwardInput, [gy, w], [shaped(x, [rows, inputs])]);
        run(Op.linearBackwardWeight, [gy, x], parameters);
      };
      return { operands: [gy, x, w], call };
    },
  };
}

export function convolution({ size, inputs, out }: CaseOf<'conv'>): Job {
  const pixels = size * size;
  return {
    flops: 2 * 9 * pixels * inputs * out,
    bytes: HALF * (pixels * (inputs + out) + 9 * inputs * out),
    prepare: (device) => {
      const [x, w] = [randomOn(device, [1, size, size, inputs]), randomOn(device, [out, inputs, 3, 3], 'bf16', 0.02)];
      const b = randomOn(device, [out], 'f32');
      return { operands: [x, w, b], call: () => conv2d(x, w, b, { padding: 1 }) };
    },
  };
}

export function upsampling({ size, inputs }: CaseOf<'upsample'>): Job {
  const pixels = size * size;
  return {
    // Four phases of 2 × 2 taps.
    flops: 2 * 16 * pixels * inputs ** 2,
    bytes: HALF * (5 * pixels * inputs + 9 * inputs ** 2),
    prepare: (device) => {
      const [x, w] = [
        randomOn(device, [1, size, size, inputs]),
        randomOn(device, [inputs, inputs, 3, 3], 'bf16', 0.02),
      ];
      const b = randomOn(device, [inputs], 'f32');
      return { operands: [x, w, b], call: () => upsampleConv2d(x, w, b) };
    },
  };
}
