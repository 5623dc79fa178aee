/** Matrix products and convolutions, as a fraction of the multiply-adds that the processor can do from registers. */
import { Device } from '../lib/device.js';
import { native } from '../lib/native.js';
import { type ConvOptions, conv2d, packConv, packUpsampleConv, upsampleConv2d } from '../lib/ops/conv.js';
import { Op } from '../lib/ops/generated.js';
import { type Epilogue, linear, type PackedWeight, packLinear } from '../lib/ops/linear.js';
import { run, shaped } from '../lib/ops/run.js';
import { type Shape, sizeOf, type Tensor } from '../lib/tensor.js';
import { type BenchmarkOptions, filled, type Row, round, timeInTurns } from './harness.js';
import { fmaProbe } from './peak.js';

/** Fraction of peak to reach on one thread from 64 rows. */
const GOAL = 0.75;
const GOAL_ROWS = 64;

interface KernelJob {
  readonly name: string;
  /** Multiply-adds of the textbook form, times two. */
  readonly flops: number;
  /** Rows of the (implicit) matrix product. */
  readonly rows: number;
  /** Makes the operands on a device and returns the call. */
  readonly prepare: (device: Device) => () => unknown;
  /** Another job of its group that computes the same: how many times faster this one is becomes a figure. */
  readonly against?: string;
}

const same = { padding: 1 } as const;
const down = { stride: 2, padding: { top: 0, left: 0, bottom: 1, right: 1 } } as const;

/** [rows, out, in]: inference batches of a small transformer, then its training and a square one. */
const products = [
  [1, 1024, 1024],
  [2, 1024, 256],
  [16, 1024, 1024],
  [64, 256, 256],
  [64, 1024, 1024],
  [256, 1024, 256],
  [4160, 256, 256],
  [4160, 1024, 256],
  [4160, 256, 1024],
  [1024, 1024, 1024],
] as const;

/** Pictures and weights of a small autoencoder at batch 16. */
const convolutions: readonly [Shape, Shape, ConvOptions | 'upsample'][] = [
  [[16, 64, 64, 3], [16, 3, 3, 3], same],
  [[16, 64, 64, 16], [16, 16, 3, 3], same],
  [[16, 64, 64, 16], [3, 16, 3, 3], same],
  [[16, 64, 64, 32], [32, 32, 3, 3], same],
  [[16, 64, 64, 32], [64, 32, 3, 3], down],
  [[16, 32, 32, 64], [64, 64, 3, 3], same],
  [[16, 16, 16, 128], [128, 128, 3, 3], same],
  [[16, 8, 8, 128], [128, 128, 3, 3], same],
  [[16, 16, 16, 128], [128, 128, 1, 1], {}],
  [[16, 32, 32, 64], [64, 64, 3, 3], 'upsample'],
  [[1, 64, 64, 32], [32, 32, 3, 3], same],
];

/** Layers of the full-size decoder for a picture of 256 x 256: extent, channels, output channels. */
const decoder = [
  [16, 512, 512],
  [32, 512, 512],
  [64, 512, 512],
  [128, 256, 256],
  [256, 128, 128],
  [256, 128, 3],
] as const;
/** The same decoder's upsamplings. */
const decoderUpsamplings = [
  [16, 512, 512],
  [32, 512, 512],
  [64, 512, 512],
  [128, 256, 256],
] as const;

function productJobs([M, N, K]: readonly [number, number, number]): KernelJob[] {
  const x = (device: Device) => filled(device, [M, K]);
  const w = (device: Device) => filled(device, [N, K]);
  const gy = (device: Device) => filled(device, [M, N]);
  const shared = { flops: 2 * M * N * K, rows: M };
  const forward =
    (weight: (device: Device) => Tensor | PackedWeight, epilogue?: Epilogue): KernelJob['prepare'] =>
    (device) => {
      const operands = [x(device), weight(device), filled(device, [N])] as const;
      return () => linear(...operands, epilogue);
    };
  const jobs: Record<string, KernelJob['prepare']> = {
    'linear packed': forward((device) => packLinear(w(device))),
    'linear packed bf16': forward((device) => packLinear(w(device), { dtype: 'bf16' })),
    'linear packed gelu': forward((device) => packLinear(w(device)), { gelu: true }),
    linear: forward(w),
    'linear input gradient': (device) => {
      const inputs = [gy(device), w(device)] as const;
      return () => run(Op.linearBackwardInput, inputs, [shaped(inputs[0], [M, K])]);
    },
    'linear weight gradient': (device) => {
      const inputs = [gy(device), x(device)] as const;
      const outputs = [shaped(inputs[0], [N, K]), shaped(inputs[0], [N])];
      return () => run(Op.linearBackwardWeight, inputs, outputs);
    },
  };
  return Object.entries(jobs).map(([name, prepare]) => ({ ...shared, name: `${name} ${M}x${N}x${K}`, prepare }));
}

function convJobs([xShape, wShape, options]: (typeof convolutions)[number]): KernelJob[] {
  const [B, H, W, C] = xShape as [number, number, number, number];
  const [O, , kh, kw] = wShape as [number, number, number, number];
  const upsample = options === 'upsample';
  const { stride = 1, padding = 0 } = upsample ? {} : options;
  const yShape = [B, ...[H, W].map((n) => (upsample ? 2 * n : n / stride)), O];
  const pad = typeof padding === 'number' ? padding : padding.top;
  const params = upsample ? [] : [kh, kw, stride, pad, pad];
  const [input, weight] = upsample
    ? [Op.upsampleConv2dBackwardInput, Op.upsampleConv2dBackwardWeight]
    : [Op.conv2dBackwardInput, Op.conv2dBackwardWeight];
  // The four 2 x 2 convolutions of an upsampling have 4/9 of the textbook's arithmetic.
  const flops = (2 * sizeOf(yShape) * C * kh * kw * (upsample ? 4 : 9)) / 9;
  const shared = { flops, rows: sizeOf(yShape) / O };
  const name = `${upsample ? 'upsample' : 'conv'} ${xShape.join('x')} -> ${O}, ${kh}x${kw}${stride > 1 ? `/${stride}` : ''}`;
  return [
    {
      ...shared,
      name,
      prepare: (device) => {
        const [x, w] = [filled(device, xShape), filled(device, wShape)];
        const packed = upsample ? packUpsampleConv(w) : packConv(w);
        return upsample ? () => upsampleConv2d(x, packed) : () => conv2d(x, packed, null, options);
      },
    },
    {
      ...shared,
      name: `${name} input gradient`,
      prepare: (device) => {
        const inputs = [filled(device, yShape), filled(device, wShape)] as const;
        return () => run(input, inputs, [shaped(inputs[0], xShape)], params);
      },
    },
    {
      ...shared,
      name: `${name} weight gradient`,
      prepare: (device) => {
        const inputs = [filled(device, yShape), filled(device, xShape)] as const;
        return () => run(weight, inputs, [shaped(inputs[0], wShape), shaped(inputs[0], [O])], params);
      },
    },
  ];
}

/** A layer with packed weights as it is computed, and by the direct kernel. */
function layerJobs([size, C, O]: readonly [number, number, number], upsample: boolean): KernelJob[] {
  const extent = upsample ? 2 * size : size;
  const yShape = [1, extent, extent, O];
  const name = `${upsample ? 'upsample' : 'conv'} layer ${size}x${size}x${C} -> ${O}`;
  const shared = { flops: 2 * sizeOf(yShape) * C * (upsample ? 4 : 9), rows: extent ** 2 };
  const operands = (device: Device) => {
    const [x, w] = [filled(device, [1, size, size, C]), filled(device, [O, C, 3, 3])];
    return { x, packed: upsample ? packUpsampleConv(w) : packConv(w) };
  };
  const [op, params] = upsample ? [Op.upsampleConv2dPacked, []] : [Op.conv2dPacked, [3, 3, 1, 1, 1]];
  return [
    {
      ...shared,
      name,
      against: `${name} direct`,
      prepare: (device) => {
        const { x, packed } = operands(device);
        return () => (upsample ? upsampleConv2d(x, packed) : conv2d(x, packed, null, same));
      },
    },
    {
      ...shared,
      name: `${name} direct`,
      prepare: (device) => {
        const { x, packed } = operands(device);
        return () => run(op, [x, packed.packed, null], [shaped(x, yShape)], params);
      },
    },
  ];
}

/** One row a kernel: GFLOP/s and the fraction of the peak measured beside it, on one thread and on all. */
export async function* kernels({ filter = '', rounds }: BenchmarkOptions): AsyncGenerator<Row> {
  const groups = [
    ...products.map(productJobs),
    ...convolutions.map(convJobs),
    ...decoder.map((layer) => layerJobs(layer, false)),
    ...decoderUpsamplings.map((layer) => layerJobs(layer, true)),
  ]
    .map((jobs) => jobs.filter(({ name }) => name.includes(filter)))
    .filter((jobs) => jobs.length > 0);
  for (const threads of new Set([1, native().capabilities().processors])) {
    for (const jobs of groups) {
      const device = Device.create('cpu', { threads });
      const probe = fmaProbe(device);
      const ready = jobs.map(({ prepare }) => ({ device, call: prepare(device) }));
      const times = await timeInTurns([probe, ...ready], rounds);
      device.close();
      const peak = probe.flops / times[0]!.best / 1e9;
      for (const [i, { name, flops, rows, against }] of jobs.entries()) {
        const speed = flops / times[i + 1]!.best / 1e9;
        const figures = { gflops: round(speed), peak_gflops: round(peak), fraction: round(speed / peak, 3) };
        const other = jobs.findIndex((job) => job.name === against);
        const ratio = other >= 0 && { over_direct: round(times[other + 1]!.best / times[i + 1]!.best, 2) };
        yield { name, threads, ...figures, ...ratio, ...(threads === 1 && rows >= GOAL_ROWS && { goal: GOAL }) };
      }
    }
  }
}
