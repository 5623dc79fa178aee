/** What one op costs the JavaScript thread: `run()` itself, an op with its scope, recording it, walking it back. */
import { Device } from '../lib/device.js';
import { scale } from '../lib/ops/elementwise.js';
import { Op } from '../lib/ops/generated.js';
import { like, run } from '../lib/ops/run.js';
import { type Gradients, Tape } from '../lib/tape.js';
import { scope, Tensor } from '../lib/tensor.js';
import { type BenchmarkOptions, type Row, round, summarize } from './harness.js';

/** Ops in a batch: enough for the clock, few enough for the caches. */
const OPS = 256;
const GOAL_US = 1;

interface Enqueue {
  readonly name: string;
  readonly goal?: number;
  /** What the batch needs, and what it leaves: outside the measured time. */
  before?(): void;
  after?(): void;
  /** OPS ops. */
  batch(): void;
}

function repeat(fn: () => unknown): () => void {
  return () => {
    for (let i = 0; i < OPS; i++) fn();
  };
}

function cases(x: Tensor, out: Tensor): Enqueue[] {
  let tape: Tape;
  let y: Tensor;
  let grads: Gradients;
  const record = (): void => {
    tape = new Tape().watch(x);
    y = tape.run(() => {
      let value = x;
      for (let i = 0; i < OPS; i++) value = scale(value, 1);
      return value;
    });
  };
  return [
    { name: 'run(), output in place', goal: GOAL_US, batch: repeat(() => run(Op.scale, [x], [out], [1])) },
    {
      name: 'run(), new output, dispose',
      goal: GOAL_US,
      batch: repeat(() => run(Op.scale, [x], [like(x)], [1])[0]!.dispose()),
    },
    { name: 'scale() in a scope', batch: () => scope(repeat(() => scale(x, 1))) },
    {
      name: 'scale() on a tape',
      batch: record,
      after: () => {
        tape.dispose();
        y.dispose();
      },
    },
    {
      name: 'backward() of scale()',
      before: record,
      batch: () => {
        grads = tape.backward([{ of: y, cotangent: x }]);
      },
      after: () => {
        grads.dispose();
        y.dispose();
      },
    },
  ];
}

/** Milliseconds that a batch takes on this thread, and until the device is through with it. */
async function measure(device: Device, { before, batch, after }: Enqueue): Promise<readonly [number, number]> {
  before?.();
  await device.sync();
  const start = performance.now();
  batch();
  const submitted = performance.now() - start;
  await device.sync();
  const drained = performance.now() - start;
  after?.();
  return [submitted, drained];
}

/** Microseconds an op on one-element tensors, over batches of 256; `drained_us` is until the device has run it as well. */
export async function* enqueue({ filter = '', rounds = 200 }: BenchmarkOptions): AsyncGenerator<Row> {
  const device = Device.create();
  const [x, out] = [1, 0].map((value) => Tensor.from([value], [1], 'f32', device)) as [Tensor, Tensor];
  const wanted = cases(x, out).filter(({ name }) => name.includes(filter));
  const times = wanted.map(() => [] as (readonly [number, number])[]);
  const warmUp = Math.ceil(rounds / 5);
  for (let i = -warmUp; i < rounds; i++)
    for (const [j, each] of wanted.entries()) {
      const time = await measure(device, each);
      if (i >= 0) times[j]!.push(time);
    }
  for (const [j, { name, goal }] of wanted.entries()) {
    const [submitted, drained] = ([0, 1] as const).map((k) =>
      summarize(times[j]!.map((time) => (time[k] * 1e3) / OPS)),
    );
    const { median, p10, p90 } = submitted!;
    const figures = { median_us: round(median, 3), p10_us: round(p10, 3), p90_us: round(p90, 3) };
    yield { name, ...figures, drained_us: round(drained!.median, 3), ...(goal && { goal }) };
  }
  device.close();
}
