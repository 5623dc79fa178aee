/** The multiply-adds that the processor can do from registers: what every fraction of peak is a fraction of. */
import type { Device } from '../lib/device.js';
import { Op } from '../lib/ops/generated.js';
import { like, run } from '../lib/ops/run.js';
import { Tensor } from '../lib/tensor.js';
import { type Job, timeInTurns } from './harness.js';

const ITERATIONS = 100_000;
/** As in native/ops/linear: independent sums, each one vector wide. */
const CHAINS = 12;
const LANES: Readonly<Record<string, number>> = { generic: 4, avx2: 8, avx512: 16, neon: 4 };

export interface Probe extends Job {
  readonly flops: number;
}

/** Multiply-adds on every thread of the device, in four pieces a thread. */
export function fmaProbe(device: Device): Probe {
  const { backend: isa, threads } = device.stats();
  const pieces = 4 * threads;
  const x = Tensor.from(new Float32Array(pieces).fill(0.5), [pieces], 'f32', device);
  return {
    device,
    flops: 2 * ITERATIONS * CHAINS * LANES[isa]! * pieces,
    call: () => run(Op.fmaProbe, [x], [like(x)], [ITERATIONS]),
  };
}

/** FLOP/s of the device's threads together. */
export async function measurePeak(device: Device): Promise<number> {
  const probe = fmaProbe(device);
  const [time] = await timeInTurns([probe], 3);
  return probe.flops / time!.best;
}
