/** Matrix products and convolutions, as a fraction of the multiply-adds that the processor can do from registers. */
import { Device } from '../lib/device.js';
import { native } from '../lib/native.js';
import { type ConvOptions, conv2d, packConv, packUpsampleConv, upsampleConv2d } from '../lib/ops/conv.js';
import { Op } from '../lib/ops/generated.js';
import { linear, packLinear } from '../lib/ops/linear.js';
import { like, run, shaped } from '../lib/ops/run.js';
import { type Shape, sizeOf, Tensor } from '../lib/tensor.js';
import { type Row, timeInTurns } from './harness.js';

interface Job {
  readonly name: string;
  /** Multiply-adds of the textbook form, times two. */
  readonly flops: number;
  readonly call: () => unknown;
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
  [[16, 64, 64, 3], [32, 3, 3, 3], same],
  [[16, 64, 64, 32], [32, 32, 3, 3], same],
  [[16, 64, 64, 32], [64, 32, 3, 3], down],
  [[16, 32, 32, 64], [64, 64, 3, 3], same],
  [[16, 16, 16, 128], [128, 128, 3, 3], same],
  [[16, 8, 8, 128], [128, 128, 3, 3], same],
  [[16, 16, 16, 128], [128, 128, 1, 1], {}],
  [[16, 32, 32, 64], [64, 64, 3, 3], 'upsample'],
  [[16, 64, 64, 32], [3, 32, 3, 3], same],
  [[1, 64, 64, 32], [32, 32, 3, 3], same],
];

function filled(device: Device, shape: Shape): Tensor {
  const data = Float32Array.from({ length: sizeOf(shape) }, (_, i) => ((i * 2654435761) % 1000) / 1000 - 0.5);
  return Tensor.from(data, shape, 'f32', device);
}

function productJobs(device: Device, [M, N, K]: readonly [number, number, number]): Job[] {
  const [x, w, gy, bias] = [[M, K], [N, K], [M, N], [N]].map((shape) => filled(device, shape)) as [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ];
  const [packed, half] = [packLinear(w), packLinear(w, { dtype: 'bf16' })];
  const flops = 2 * M * N * K;
  const name = `${M}x${N}x${K}`;
  return [
    { name: `linear packed ${name}`, flops, call: () => linear(x, packed, bias) },
    { name: `linear packed bf16 ${name}`, flops, call: () => linear(x, half, bias) },
    { name: `linear packed gelu ${name}`, flops, call: () => linear(x, packed, bias, { gelu: true }) },
    { name: `linear ${name}`, flops, call: () => linear(x, w, bias) },
    { name: `linear input gradient ${name}`, flops, call: () => run(Op.linearBackwardInput, [gy, w], [like(x)]) },
    {
      name: `linear weight gradient ${name}`,
      flops,
      call: () => run(Op.linearBackwardWeight, [gy, x], [like(w), shaped(w, [N])]),
    },
  ];
}

function convJobs(device: Device, [xShape, wShape, options]: (typeof convolutions)[number]): Job[] {
  const [x, w] = [filled(device, xShape), filled(device, wShape)];
  const [O, C, kh, kw] = wShape as [number, number, number, number];
  const upsample = options === 'upsample';
  const packed = upsample ? packUpsampleConv(w) : packConv(w);
  const forward = upsample
    ? () => upsampleConv2d(x, packed as ReturnType<typeof packConv>)
    : () => conv2d(x, packed, null, options);
  const y = forward();
  const gy = filled(device, y.shape);
  // The four 2 × 2 convolutions of an upsampling have 4/9 of the textbook's arithmetic.
  const flops = (2 * sizeOf(y.shape) * C * kh * kw * (upsample ? 4 : 9)) / 9;
  const name = `${upsample ? 'upsample' : 'conv'} ${xShape.join('x')} -> ${O}, ${kh}x${kw}${!upsample && options.stride ? `/${options.stride}` : ''}`;
  const pad = upsample || options.stride || kh === 1 ? 0 : 1;
  const params = upsample ? [] : [kh, kw, options.stride ?? 1, pad, pad];
  const [input, weight] = upsample
    ? [Op.upsampleConv2dBackwardInput, Op.upsampleConv2dBackwardWeight]
    : [Op.conv2dBackwardInput, Op.conv2dBackwardWeight];
  return [
    { name, flops, call: forward },
    { name: `${name} input gradient`, flops, call: () => run(input, [gy, w], [like(x)], params) },
    { name: `${name} weight gradient`, flops, call: () => run(weight, [gy, x], [like(w), shaped(w, [O])], params) },
  ];
}

const PROBE_ITERATIONS = 100_000;
const PROBE_CHAINS = 12;
const lanes: Record<string, number> = { generic: 4, avx2: 8, avx512: 16, neon: 4 };

/** One row a kernel: GFLOP/s and the fraction of the peak measured beside it, on one thread and on all. */
export async function* kernels(options: { isa?: string; filter?: string; rounds?: number } = {}): AsyncGenerator<Row> {
  const counts = [...new Set([1, native().capabilities().processors])];
  for (const threads of counts) {
    const device = Device.create('cpu', { threads, ...(options.isa && { isa: options.isa }) });
    const { isa } = device.stats();
    const tiles = filled(device, [4 * threads]);
    const probe: Job = {
      name: 'peak',
      flops: 2 * PROBE_ITERATIONS * PROBE_CHAINS * lanes[isa]! * 4 * threads,
      call: () => run(Op.fmaProbe, [tiles], [like(tiles)], [PROBE_ITERATIONS]),
    };
    const cases = [
      ...products.map((size) => () => productJobs(device, size)),
      ...convolutions.map((size) => () => convJobs(device, size)),
    ];
    for (const make of cases) {
      const jobs = make().filter((job) => !options.filter || job.name.includes(options.filter));
      if (jobs.length === 0) continue;
      const all = [probe, ...jobs];
      const times = await timeInTurns(
        device,
        all.map((job) => job.call),
        options.rounds,
      );
      const peak = probe.flops / times[0]!.best / 1e9;
      for (const [i, job] of jobs.entries()) {
        const speed = job.flops / times[i + 1]!.best / 1e9;
        const row = { benchmark: 'kernels', kernel: job.name, isa, threads };
        yield { ...row, gflops: round(speed), peak: round(peak), fraction: round(speed / peak, 3) };
      }
    }
    device.close();
  }
}

function round(value: number, digits = 1): number {
  return Number(value.toFixed(digits));
}
