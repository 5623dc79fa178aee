/** A step of each training of the embedded model: pictures a second, and how much of the processor its products use. */
import { Device } from '../lib/device.js';
import { Checkpoint } from '../lib/io/checkpoint.js';
import { countFlops } from '../lib/ops/flops.js';
import type { RunConfig } from '../lib/training/config.js';
import { TokenizerTrainer, TransformerTrainer } from '../lib/training/index.js';
import type { Trainee } from '../lib/training/run.js';
import { embeddedModel, trainingBatch, trainingConfigs } from './embedded.js';
import { type BenchmarkOptions, elapsed, milliseconds, type Row, round, summarize } from './harness.js';
import { measurePeak } from './peak.js';

type Training = Trainee & { dispose(): void };

async function measure(
  name: string,
  trainee: Training,
  config: RunConfig,
  device: Device,
  steps: number,
): Promise<Row> {
  const { batch_size, optimizer } = config;
  const rates = { lr: optimizer.lr, weightDecay: optimizer.weight_decay };
  const step = async (i: number) => trainee.step(await trainingBatch(config, i), i, rates);
  const peakBefore = await measurePeak(device);
  const flops = await countFlops(device, () => step(0));
  const times: number[] = [];
  for (let i = 1; i <= steps; i++) {
    const batch = await trainingBatch(config, i);
    times.push(await elapsed(() => trainee.step(batch, i, rates)));
  }
  const peak = Math.max(peakBefore, await measurePeak(device));
  const timing = summarize(times);
  return {
    name,
    batch: batch_size,
    ...milliseconds(timing),
    samples_per_second: round(batch_size / timing.median),
    gflop: round(flops / 1e9),
    gflops: round(flops / timing.median / 1e9),
    peak_gflops: round(peak / 1e9),
    fraction: round(flops / timing.median / peak, 3),
    peak_mib: round(device.stats().peakBytes / 2 ** 20),
  };
}

/**
 * Steps with batches that are already drawn: the loader works on a thread of its own. `gflop` counts the products and
 * convolutions of a step.
 */
export async function* train({ filter = '', rounds = 5 }: BenchmarkOptions): AsyncGenerator<Row> {
  const configs = await trainingConfigs();
  const trainings: readonly (readonly [string, RunConfig, (device: Device) => Promise<Training>])[] = [
    ['tokenizer step', configs.tokenizer, (device) => TokenizerTrainer.create(configs.tokenizer, { device })],
    [
      'transformer step',
      configs.transformer,
      async (device) => {
        const model = await embeddedModel();
        try {
          const tokenizer = await Checkpoint.open(model.directory);
          return await TransformerTrainer.create(configs.transformer, { device, tokenizer });
        } finally {
          await model.remove();
        }
      },
    ],
  ];
  for (const [name, config, create] of trainings) {
    if (!name.includes(filter)) continue;
    const device = Device.create();
    const trainee = await create(device);
    yield await measure(name, trainee, config, device, rounds);
    trainee.dispose();
    device.close();
  }
}
