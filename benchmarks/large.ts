/**
 * A model of published size: Infinity-125M (12 layers) and the official decoder of 16 bits with random weights, one guided picture of
 * 256 × 256. Time and tensor memory by stage.
 */
import { Device } from '../lib/device.js';
import { type Module, placed, type WeightFormat, type WeightSource } from '../lib/nn/module.js';
import { countFlops } from '../lib/ops/flops.js';
import { sizeOf, type Tensor } from '../lib/tensor.js';
import { Autoencoder } from '../lib/tokenizer/autoencoder.js';
import { officialAutoencoderConfig } from '../lib/tokenizer/config.js';
import { templateSchedule } from '../lib/tokenizer/schedule.js';
import { officialInfinityConfig } from '../lib/transformer/config.js';
import { InfinityTransformer } from '../lib/transformer/infinity.js';
import { type BenchmarkOptions, filled, milliseconds, type Row, round, summarize } from './harness.js';
import { measurePeak } from './peak.js';
import { decodePicture, drawPicture, drawScales } from './picture.js';

const BITS = 16;
/** Rows of text features: a prompt of some twenty words. */
const TEXT_TOKENS = 32;
const GOALS: Readonly<Record<string, number>> = { 'transformer and decoder': 2600 };
const MEMORY_GOAL_MIB = 2048;

/** Small numbers from a table: 200 million drawn ones would take longer than everything that is measured. */
function randomWeights(module: Module): WeightSource {
  const table = Float32Array.from({ length: 1 << 12 }, (_, i) => 0.05 * Math.sin(i * 12.9898));
  const shapes = module.stateShapes();
  const read = async (name: string): Promise<Float32Array> => {
    const values = new Float32Array(sizeOf(shapes.get(name)!));
    for (let at = 0; at < values.length; at += table.length)
      values.set(table.subarray(0, Math.min(table.length, values.length - at)), at);
    return values;
  };
  return { shapes, read };
}

async function* measure(freeze: WeightFormat, { filter = '', rounds = 3 }: BenchmarkOptions): AsyncGenerator<Row> {
  const device = Device.create();
  const config = officialInfinityConfig('infinity_layer12', { vae_embed_dim: BITS });
  const [transformer, decoder] = placed({ device }, () => [
    new InfinityTransformer(config),
    new Autoencoder(officialAutoencoderConfig(BITS)).decoder,
  ]);
  for (const module of [transformer, decoder]) await module.loadFrom(randomWeights(module), { freeze });
  await device.sync();
  device.trim();
  const weights = device.resetPeak().liveBytes;
  const schedule = templateSchedule(1, '0.06M');
  const text = { kv_NCt: filled(device, [TEXT_TOKENS, config.text_channels]), lens: [TEXT_TOKENS] };
  const parts = { device, transformer, decoder, text, schedule };
  const times = new Map<string, number[]>();
  const memory = new Map<string, number>();
  const sums: Tensor[] = [];
  const flops = {
    transformer: await countFlops(device, async () => sums.push(await drawScales(parts))),
    decoder: await countFlops(device, () => decodePicture(parts, sums[0]!)),
  };
  sums[0]!.dispose();
  device.resetPeak();
  for (let i = 0; i < rounds; i++)
    await drawPicture(parts, (stage, seconds) => {
      times.set(stage, [...(times.get(stage) ?? []), seconds]);
      if (!stage.startsWith('transformer')) memory.set(stage, device.resetPeak().peakBytes);
    });
  const peak = await measurePeak(device);
  const counted = new Map(Object.entries({ ...flops, 'transformer and decoder': flops.transformer + flops.decoder }));
  for (const [stage, seconds] of times) {
    const name = `${freeze}, ${stage}`;
    if (!name.includes(filter)) continue;
    const timing = summarize(seconds);
    const gflop = counted.get(stage);
    const speed = gflop && { gflop: round(gflop / 1e9), fraction: round(gflop / timing.median / peak, 3) };
    const bytes = memory.get(stage);
    const goal = GOALS[stage];
    yield {
      name,
      ...milliseconds(timing),
      ...speed,
      ...(bytes && { peak_mib: round(bytes / 2 ** 20) }),
      ...(goal && { goal }),
    };
  }
  const most = Math.max(...memory.values());
  const stage = { name: `${freeze}, memory`, weights_mib: round(weights / 2 ** 20), peak_mib: round(most / 2 ** 20) };
  if (stage.name.includes(filter)) yield { ...stage, goal: MEMORY_GOAL_MIB };
  text.kv_NCt.dispose();
  transformer.dispose();
  decoder.dispose();
  device.close();
}

/** On all threads. Memory is that of tensors: weights of transformer and decoder, and what the stage needs beside them. */
export async function* large(options: BenchmarkOptions): AsyncGenerator<Row> {
  for (const freeze of ['f32', 'bf16'] as const) yield* measure(freeze, options);
}
