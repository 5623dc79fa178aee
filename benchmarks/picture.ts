/** One guided picture, scale by scale: the time of each stage, and what its tensors take. */
import type { Device } from '../lib/device.js';
import { scope, type Tensor } from '../lib/tensor.js';
import type { Decoder } from '../lib/tokenizer/decoder.js';
import type { ScaleSchedule } from '../lib/tokenizer/schedule.js';
import type { InfinityTransformer } from '../lib/transformer/infinity.js';
import type { Recordings } from '../lib/transformer/recordings.js';
import { sampleScales } from '../lib/transformer/sampler.js';
import type { TextFeatures } from '../lib/transformer/text.js';
import { elapsed } from './harness.js';

export interface PictureParts {
  readonly device: Device;
  readonly transformer: InfinityTransformer;
  readonly decoder: Decoder;
  readonly text: TextFeatures;
  readonly schedule: ScaleSchedule;
  /** As the pipeline has them on a card. */
  readonly recordings?: Recordings;
}

/** Told the seconds of a stage when it is over. */
export type StageObserver = (stage: string, seconds: number) => void;

/** What the time up to the end of scale `k` is called. */
export function scaleStage(schedule: ScaleSchedule, k: number): string {
  const [, h, w] = schedule[k]!;
  return k === 0 ? 'text conditioning and scale 1x1' : `scale ${h}x${w}`;
}

/** The transformer's scales up to the sum of all codes. The time of a scale is that between its events. */
export async function drawScales(
  { transformer, text, schedule, recordings }: PictureParts,
  observe?: StageObserver,
): Promise<Tensor> {
  const images = [{ seed: 1, image: 0 }];
  let before = performance.now();
  const request = { text, schedule, images, guidance: 3, recordings };
  for await (const { scale, sum_BHWd } of sampleScales(transformer, request)) {
    const now = performance.now();
    observe?.(scaleStage(schedule, scale), (now - before) / 1e3);
    before = now;
    if (scale === schedule.length - 1) return sum_BHWd.retain();
  }
  throw new Error('a schedule without scales');
}

/** The picture of a sum, read back. */
export async function decodePicture({ decoder }: PictureParts, sum_BHWd: Tensor): Promise<void> {
  const image = scope(() => decoder.forward(sum_BHWd));
  await image.read();
  image.dispose();
}

/** Draws a picture and tells of its scales, of `transformer`, `decoder` and both together. */
export async function drawPicture(parts: PictureParts, observe: StageObserver): Promise<void> {
  const start = performance.now();
  const sum = await drawScales(parts, observe);
  const transformer = (performance.now() - start) / 1e3;
  const decoder = await elapsed(() => decodePicture(parts, sum));
  sum.dispose();
  observe('decoder', decoder);
  observe('transformer', transformer);
  observe('transformer and decoder', transformer + decoder);
}
