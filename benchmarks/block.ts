/** One transformer block of the embedded model: every scale of a guided picture, and the parts of a training step. */
import { Device } from '../lib/device.js';
import { type Memory, ownTokens } from '../lib/nn/attention.js';
import { placed } from '../lib/nn/module.js';
import { countFlops } from '../lib/ops/flops.js';
import { type Gradients, Tape } from '../lib/tape.js';
import { scope, Tensor } from '../lib/tensor.js';
import { type ScaleSchedule, scaleOffsets, scaleTokens, tokenCount } from '../lib/tokenizer/schedule.js';
import { AdamW } from '../lib/training/index.js';
import { InfinityTransformer } from '../lib/transformer/infinity.js';
import { KvCache, kvExtents } from '../lib/transformer/kv_cache.js';
import { embeddedShapes } from './embedded.js';
import {
  type BenchmarkOptions,
  elapsed,
  filled,
  milliseconds,
  type Row,
  round,
  summarize,
  timeInTurns,
} from './harness.js';
import { fmaProbe, measurePeak } from './peak.js';

/** Text tokens of a prompt, about as many as the grammar's prompts have. */
const TEXT_TOKENS = 12;

/** A transformer of one block with initial weights, and what a batch of prompts would hand to that block. */
function setUp(device: Device, { config, schedule }: Awaited<ReturnType<typeof embeddedShapes>>, B: number) {
  const model = placed({ device }, () => new InfinityTransformer({ ...config, depth: 1, block_chunks: 1 })).initialize(
    1,
  );
  const { embed_dim: C } = config;
  const ranges = Array.from({ length: B }, (_, b) => [b * TEXT_TOKENS, (b + 1) * TEXT_TOKENS]);
  return {
    model,
    block: model.blocks[0]!,
    C,
    cond: filled(device, config.shared_aln ? [6, B, 1, C] : [B, C]),
    ca_NC: filled(device, [B * TEXT_TOKENS, C]),
    textRange: Tensor.from(Int32Array.from(ranges.flat()), [B, 1, 2], 'i32', device),
    rope: model.rope(schedule),
  };
}

function speed(flops: number, seconds: number, peak: number): Row {
  return { gflops: round(flops / seconds / 1e9), fraction: round(flops / seconds / peak, 3) };
}

/** With guidance a picture is two samples; keys and values of earlier scales come from the cache. */
async function* inference(device: Device, { filter = '', rounds }: BenchmarkOptions): AsyncGenerator<Row> {
  const shapes = await embeddedShapes();
  const { schedule } = shapes;
  const rows = 2;
  const { model, block, C, cond, ca_NC, textRange, rope } = setUp(device, shapes, rows);
  model.freeze('f32');
  const offsets = scaleOffsets(schedule);
  const cache = new KvCache({ ...kvExtents(model.config, schedule), rows }, { device, dtype: 'f32' });
  const condition = scope(() => ({ modulation: block.modulation(cond), text: block.textKeysValues(ca_NC) }));
  const jobs = schedule.map((scale, k) => {
    const x_RLC = filled(device, [rows, scaleTokens(scale), C]);
    const ctx = { rope, ropeStart: offsets[k]!, memory: cache.memory(0, offsets[k]!), textRange };
    const name = `inference, ${rows} x ${scaleTokens(scale)} tokens`;
    return { name, device, call: () => block.forward({ x_BLC: x_RLC }, condition, ctx).x_BLC };
  });
  // In order, so that every scale finds the cache filled.
  const flops = new Map<string, number>();
  for (const { name, call } of jobs) {
    const submit = () =>
      scope(() => {
        call();
      });
    flops.set(name, await countFlops(device, submit));
  }
  const probe = fmaProbe(device);
  const wanted = jobs.filter(({ name }) => name.includes(filter));
  const [peak, ...times] = await timeInTurns([probe, ...wanted], rounds);
  for (const [j, { name }] of wanted.entries()) {
    const figures = speed(flops.get(name)!, times[j]!.median, probe.flops / peak!.best);
    yield { name, ...milliseconds(times[j]!), ...figures };
  }
  cache.dispose();
  model.dispose();
}

/** Every token sees all scales up to its own. */
function causalMemory(device: Device, schedule: ScaleSchedule): Memory {
  const offsets = scaleOffsets(schedule);
  const seen = schedule.flatMap((scale, k) => new Array<number[]>(scaleTokens(scale)).fill([0, offsets[k + 1]!]));
  const range = Tensor.from(Int32Array.from(seen.flat()), [1, seen.length, 2], 'i32', device);
  return ownTokens(range);
}

/** Forward on a tape, backward, and AdamW with clipping and averaging, with the device awaited between them. */
async function* training(device: Device, { filter = '', rounds = 5 }: BenchmarkOptions): AsyncGenerator<Row> {
  const shapes = await embeddedShapes();
  const { schedule, batch } = shapes;
  const names = ['forward', 'backward', 'optimizer'].map((part) => `training, ${batch} samples, ${part}`);
  if (!names.some((name) => name.includes(filter))) return;
  const { model, block, C, cond, ca_NC, textRange, rope } = setUp(device, shapes, batch);
  const shape = [batch, tokenCount(schedule), C];
  const [x_BLC, gy_BLC] = [filled(device, shape), filled(device, shape)];
  const ctx = { rope, ropeStart: 0, memory: causalMemory(device, schedule), textRange };
  const optimizer = await AdamW.create(block.namedParameters(), { betas: [0.9, 0.97], clip: 1, emaDecay: 0.998 });
  let tape: Tape;
  let y_BLC: Tensor;
  let grads: Gradients;
  const parts = [
    () => {
      tape = new Tape().watch(...optimizer.parameters, x_BLC, cond, ca_NC);
      y_BLC = tape.run(() => {
        const known = { modulation: block.modulation(cond), text: block.textKeysValues(ca_NC) };
        return block.forward({ x_BLC }, known, ctx).x_BLC;
      });
    },
    () => {
      grads = tape.backward([{ of: y_BLC, cotangent: gy_BLC }]);
    },
    () => optimizer.update(grads, { lr: 1e-3, weightDecay: 0.01 }).dispose(),
  ];
  const peak = await measurePeak(device);
  const times = parts.map(() => [] as number[]);
  const flops: number[] = [];
  for (let i = -1; i < rounds; i++) {
    for (const [j, part] of parts.entries()) {
      const work = async () => {
        part();
        await device.sync();
      };
      if (i < 0) flops.push(await countFlops(device, work));
      else times[j]!.push(await elapsed(work));
    }
    grads!.dispose();
    y_BLC!.dispose();
  }
  for (const [j, name] of names.entries()) {
    if (!name.includes(filter)) continue;
    const timing = summarize(times[j]!);
    const counted = flops[j] ? speed(flops[j]!, timing.median, peak) : {};
    yield { name, ...milliseconds(timing), ...counted };
  }
  optimizer.dispose();
  model.dispose();
}

/** On all threads. The fractions count products alone; see flops.ts. */
export async function* block(options: BenchmarkOptions): AsyncGenerator<Row> {
  const device = Device.create();
  yield* inference(device, options);
  yield* training(device, options);
  device.close();
}
