/** A trained model opened for measuring, and held-out pictures to measure it on. */
import { type Batch, drawBatch } from '../../lib/data/batch.js';
import { findDataset, openDataset } from '../../lib/data/dataset.js';
import type { Device } from '../../lib/device.js';
import { Checkpoint } from '../../lib/io/checkpoint.js';
import { toSignedFloat } from '../../lib/io/pixels.js';
import { placed } from '../../lib/nn/module.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { T5Encoder } from '../../lib/text/t5.js';
import { parseT5Config } from '../../lib/text/t5_config.js';
import { TextTokenizer } from '../../lib/text/tokenizer.js';
import { Autoencoder } from '../../lib/tokenizer/autoencoder.js';
import { parseAutoencoderConfig } from '../../lib/tokenizer/config.js';
import { parseGrids, pixelSize, type ScaleSchedule } from '../../lib/tokenizer/schedule.js';
import { loadComponent } from '../../lib/training/export_checkpoint.js';
import { parseInfinityConfig } from '../../lib/transformer/config.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import type { TextFeatures } from '../../lib/transformer/text.js';
import type { Made } from './workshop.js';

/** Seed of the pictures that no training draws: theirs stay below. */
const HELD_OUT_SEED = 990_001;
/** Pictures that are measured together. */
const BATCH = 32;

/** A frozen visual tokenizer. */
export interface TrainedTokenizer {
  readonly autoencoder: Autoencoder;
  readonly schedule: ScaleSchedule;
  /** Pixels along one side. */
  readonly size: number;
  dispose(): void;
}

export async function openTokenizer({ directory }: Made, device: Device): Promise<TrainedTokenizer> {
  const checkpoint = await Checkpoint.open(directory);
  const { config } = await checkpoint.component('vae');
  const autoencoder = placed({ device }, () => new Autoencoder(parseAutoencoderConfig(config)));
  await loadComponent(autoencoder, checkpoint, 'vae');
  autoencoder.freeze('f32');
  const schedule = parseGrids(String(config.scale_schedule));
  const [size] = pixelSize(schedule, autoencoder.config.patch_size);
  return { autoencoder, schedule, size, dispose: () => autoencoder.dispose() };
}

/** A transformer with its text encoder and its visual tokenizer. */
export interface TrainedModel extends TrainedTokenizer {
  readonly transformer: InfinityTransformer;
  /** Features of some captions; the caller disposes their tensors. */
  encodeText(captions: readonly string[]): TextFeatures;
}

export async function openTrained(made: Made, device: Device): Promise<TrainedModel> {
  const checkpoint = await Checkpoint.open(made.directory);
  const { config } = await checkpoint.component('transformer');
  const { config: textConfig } = await checkpoint.component('text_encoder');
  const text = await TextTokenizer.fromFile(checkpoint.tokenizerPath);
  const tokenizer = await openTokenizer(made, device);
  const { transformer, textEncoder } = placed({ device }, () => ({
    transformer: new InfinityTransformer(parseInfinityConfig(config)),
    textEncoder: new T5Encoder(parseT5Config(textConfig)),
  }));
  await loadComponent(transformer, checkpoint, 'transformer');
  await loadComponent(textEncoder, checkpoint, 'text_encoder');
  const maxLength = transformer.config.text_maxlen;
  return {
    ...tokenizer,
    transformer,
    encodeText: (captions) => textEncoder.encode(captions.map((caption) => text.encode(caption, { maxLength }).ids)),
    dispose: () => {
      for (const network of [tokenizer, transformer, textEncoder]) network.dispose();
    },
  };
}

/** Held-out pictures with their captions, from number `start` on, batch by batch. */
export async function* heldOut(size: number, count: number, start = 0): AsyncGenerator<Batch> {
  const dataset = openDataset(await findDataset({ kind: 'shapes', seed: HELD_OUT_SEED, size }, 'transformer'));
  for (let done = 0; done < count; done += BATCH)
    yield drawBatch(dataset, { first: start + done, count: Math.min(BATCH, count - done) });
}

/** Encoder features of a batch; the caller disposes them. */
export function featuresOf({ autoencoder, size }: TrainedTokenizer, { pixels, captions }: Batch): Tensor {
  return scope(() => {
    const image_BHWC = Tensor.from(toSignedFloat(pixels), [captions.length, size, size, 3], 'f32', autoencoder.device);
    return autoencoder.encode(image_BHWC);
  });
}

/** Reads a tensor and lets it go. */
export async function take(tensor: Tensor): Promise<Float32Array> {
  try {
    return Float32Array.from(await tensor.readFloats());
  } finally {
    tensor.dispose();
  }
}
