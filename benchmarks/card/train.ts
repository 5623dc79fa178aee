/** A training step of a 2B transformer in bf16 with f32 master weights: forward, backward with recomputed blocks, AdamW. */
import { placed } from '../../lib/nn/module.js';
import type { BitLoss } from '../../lib/ops/bit_loss.js';
import { packBits } from '../../lib/ops/bits.js';
import { countFlops } from '../../lib/ops/flops.js';
import { signQuantize } from '../../lib/ops/quantize.js';
import { type Gradients, Tape } from '../../lib/tape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { scaleOffsets, scaleTokens, tokenCount } from '../../lib/tokenizer/schedule.js';
import { AdamW } from '../../lib/training/optimizer.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { type CardOptions, elapsed, milliseconds, type Row, summarize } from '../harness.js';
import { casesOf, modelConfig, squareSchedule } from './cases.js';
import { againstFloor, launchesAndPeak, openCard, randomise, randomOn, type Work } from './measure.js';

/** The device is awaited between the parts, and once for all of them in `step`. */
export async function* train({ filter = '', rounds, short = false }: CardOptions): AsyncGenerator<Row> {
  const cases = casesOf(short);
  const { scales, batch: B } = cases.training;
  const { device, ceilings, rows } = await openCard(cases);
  yield* rows;
  const schedule = squareSchedule(scales);
  const offsets = scaleOffsets(schedule);
  const config = modelConfig(cases, scales);
  const model = placed({ device, dtype: 'bf16' }, () => new InfinityTransformer(config));
  randomise(model);
  const optimizer = await AdamW.create(model.namedParameters(), { betas: [0.9, 0.97], clip: 1 });
  const [L, D, n] = [tokenCount(schedule), cases.bits, cases.text_tokens];
  const x_BLD = randomOn(device, [B, L - 1, D], 'f32');
  const labels = scope(() => packBits(signQuantize(randomOn(device, [B, L, D], 'f32'), 1).bits));
  const text = { kv_NCt: randomOn(device, [B * n, config.text_channels], 'f32'), lens: new Array<number>(B).fill(n) };
  const one = Tensor.from([1], [], 'f32', device);
  let tape: Tape;
  let out: BitLoss;
  let grads: Gradients;
  const parts: Readonly<Record<string, () => void>> = {
    forward: () => {
      tape = new Tape().watch(...optimizer.parameters);
      out = tape.run(() => model.loss(x_BLD, labels, { text, schedule, reweight: true, checkpointing: true }));
    },
    backward: () => {
      grads = tape.backward([{ of: out.loss, cotangent: one }]);
      for (const t of Object.values(out)) t.dispose();
    },
    optimizer: () => {
      optimizer.update(grads, { lr: 1e-5, weightDecay: 0.01 }).dispose();
      grads.dispose();
    },
  };
  const step = () => {
    for (const part of Object.values(parts)) part();
  };
  const flops = new Map<string, number>();
  for (const [name, part] of Object.entries(parts)) flops.set(name, await countFlops(device, part));
  // Attention is not among the counted products: two of them forward, those and five more backward, for every key that is seen.
  const pairs = schedule.reduce((sum, scale, k) => sum + scaleTokens(scale) * (offsets[k + 1]! + n), 0);
  const attention = (products: number): number => 2 * products * B * pairs * config.embed_dim * config.depth;
  const parameters = optimizer.parameters.reduce((sum, p) => sum + p.size, 0);
  const works = new Map<string, readonly Work[]>([
    ['forward', [{ flops: flops.get('forward')! + attention(2) }]],
    ['backward', [{ flops: flops.get('backward')! + attention(7) }]],
    // Norm and update read four numbers a parameter and one again, and write three.
    ['optimizer', [{ bytes: 32 * parameters }]],
  ]);
  works.set('step', [...works.values()].flat());
  const row = await launchesAndPeak(device, step);
  const times = new Map<string, number[]>();
  const note = async (name: string, work: () => void) => {
    const seconds = await elapsed(async () => {
      work();
      await device.sync();
    });
    times.set(name, [...(times.get(name) ?? []), seconds]);
  };
  for (let i = 0; i < (rounds ?? cases.rounds); i++) {
    for (const [name, part] of Object.entries(parts)) await note(name, part);
    await note('step', step);
  }
  for (const [part, seconds] of times) {
    const name = `training ${cases.model.size}, ${B} x ${L} tokens, ${part}`;
    if (!name.includes(filter)) continue;
    const timing = summarize(seconds);
    const floor = againstFloor(works.get(part)!, timing, ceilings);
    yield { name, ...milliseconds(timing), ...(part === 'step' && row), ...floor };
  }
  device.close();
}
