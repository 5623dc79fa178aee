/** What trained models are compared by, all on the same held-out pictures and with the same draws. */
import type { Batch } from '../../lib/data/batch.js';
import { CounterRandom } from '../../lib/data/shapes/random.js';
import { toSignedFloat } from '../../lib/io/pixels.js';
import { unpackBits } from '../../lib/ops/bits.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { splitScales, sumOfBits } from '../../lib/tokenizer/bit_tokens.js';
import { MultiScaleQuantizer } from '../../lib/tokenizer/quantizer.js';
import { type ScaleSchedule, scaleOffsets, tokenCount } from '../../lib/tokenizer/schedule.js';
import { BitwiseSelfCorrection, type SelfCorrected } from '../../lib/training/self_correction.js';
import { tokenBits } from '../../lib/transformer/config.js';
import { type SampleOptions, sampleScales } from '../../lib/transformer/sampler.js';
import { slicedWasserstein } from './sliced_wasserstein.js';
import { featuresOf, heldOut, type TrainedModel, type TrainedTokenizer, take } from './trained_model.js';

/** Seed of every draw of a measurement. */
const DRAW_SEED = 7;
/** Pictures have this many cells a side when their distributions are compared. */
const CELLS = 8;

/** dB of a sum of squared differences between pictures in [-1, 1]. */
export function decibels(squares: number, count: number): number {
  return 10 * Math.log10((4 * count) / squares);
}

/** PSNR over everything that was added, so that a perfect picture does not make the mean infinite. */
class Psnr {
  private squares = 0;
  private count = 0;

  add(a: Float32Array, b: Float32Array): void {
    for (let i = 0; i < a.length; i++) this.squares += (a[i]! - b[i]!) ** 2;
    this.count += a.length;
  }

  get value(): number {
    return decibels(this.squares, this.count);
  }
}

/** PSNR of reconstructions against the pictures, dB. */
export async function reconstructionPsnr(tokenizer: TrainedTokenizer, count: number): Promise<number> {
  const { autoencoder, schedule } = tokenizer;
  const quantizer = new MultiScaleQuantizer({ codebookDim: autoencoder.config.codebook_dim });
  const psnr = new Psnr();
  for await (const batch of heldOut(tokenizer.size, count)) {
    const features = featuresOf(tokenizer, batch);
    const image = await take(scope(() => autoencoder.decode(quantizer.quantize(features, schedule).quantized)));
    features.dispose();
    psnr.add(image, toSignedFloat(batch.pixels));
  }
  return psnr.value;
}

/** Bits of a batch, with a share of those of the first scales inverted; later labels then repair them. */
function corrupted(
  features_BHWd: Tensor,
  schedule: ScaleSchedule,
  { first, scales, share }: { first: number; scales: number; share: number },
): SelfCorrected {
  const [B = 0, , , d = 0] = features_BHWd.shape;
  const random = new CounterRandom(DRAW_SEED, first);
  const shape = [B, tokenCount(schedule), d];
  const uniforms = Float32Array.from({ length: B * shape[1]! * d }, () => random.uniform());
  const correction = new BitwiseSelfCorrection({ layers: scales, strength: share, requant: true });
  return scope(() => {
    const draws = {
      percents: new Array<number>(scales).fill(Math.round(100 * share)),
      flips: Tensor.from(uniforms, shape, 'f32', features_BHWd.device),
    };
    return correction.apply(features_BHWd, schedule, draws, { trace: scales > 0 });
  });
}

/** The labels as bits u8 [B, L, d]. */
const bitsOf = ({ labels_BLP, sum_BHWd }: SelfCorrected): Tensor => unpackBits(labels_BLP, sum_BHWd.shape[3]!);

function disposeAll({ inputs_BLD, labels_BLP, sum_BHWd, trace }: SelfCorrected): void {
  for (const t of [inputs_BLD, labels_BLP, sum_BHWd, ...Object.values(trace ?? {})]) t?.dispose();
}

/** Teacher forcing on held-out pictures. */
export interface TeacherForced {
  /** Nats a token, all tokens alike. */
  readonly loss: number;
  /** Share of bits whose likelier value is right. */
  readonly accuracy: number;
  /** The same by scale. */
  readonly losses: readonly number[];
  readonly accuracies: readonly number[];
}

/** @param share of the bits of every scale that are inverted before the next one sees them; labels then repair them */
export async function teacherForced(model: TrainedModel, count: number, share = 0): Promise<TeacherForced> {
  const { transformer, schedule } = model;
  const offsets = scaleOffsets(schedule);
  const bits = tokenBits(transformer.config);
  const sums = schedule.map(() => ({ loss: 0, correct: 0, tokens: 0 }));
  for await (const batch of heldOut(model.size, count)) {
    const features = featuresOf(model, batch);
    const tokens = corrupted(features, schedule, {
      first: batch.first,
      scales: share > 0 ? schedule.length : 0,
      share,
    });
    const out = scope(() =>
      transformer.loss(tokens.inputs_BLD, tokens.labels_BLP, {
        text: model.encodeText(batch.captions),
        schedule,
        reduction: 'sum',
      }),
    );
    const [losses, correct] = [await take(out.perToken), await take(out.correct)];
    for (const t of [features, out.loss]) t.dispose();
    disposeAll(tokens);
    for (let i = 0; i < losses.length; i++) {
      const at = i % offsets.at(-1)!;
      const sum = sums[offsets.findLastIndex((offset) => offset <= at)]!;
      sum.loss += losses[i]!;
      sum.correct += correct[i]!;
      sum.tokens++;
    }
  }
  const all = (of: (sum: (typeof sums)[number]) => number): number => sums.reduce((total, sum) => total + of(sum), 0);
  const tokens = all((s) => s.tokens);
  return {
    loss: all((s) => s.loss) / tokens,
    accuracy: all((s) => s.correct) / (tokens * bits),
    losses: sums.map((s) => s.loss / s.tokens),
    accuracies: sums.map((s) => s.correct / (s.tokens * bits)),
  };
}

type Draw = Pick<SampleOptions, 'forced' | 'topK' | 'tau' | 'guidance'>;

/** The sum of codes that the model draws for some captions; the caller disposes it. */
async function drawSum(
  model: TrainedModel,
  { captions, first }: { captions: readonly string[]; first: number },
  options: Draw,
): Promise<Tensor> {
  const { transformer, schedule } = model;
  const text = model.encodeText(captions);
  const images = captions.map((_, i) => ({ seed: DRAW_SEED, image: first + i }));
  let sum: Tensor | undefined;
  for await (const { scale, scales, sum_BHWd } of sampleScales(transformer, { text, schedule, images, ...options }))
    if (scale === scales - 1) sum = sum_BHWd.retain();
  text.kv_NCt.dispose();
  return sum!;
}

/** How far pictures come back that are drawn on from the first scales of held-out ones. dB against the plain reconstruction. */
export interface Completed {
  /** Later scales by the model, always the likelier bit. */
  readonly drawn: number;
  /** Later scales are those of the picture as it was: nobody repairs. */
  readonly unrepaired: number;
  /** Later scales are the bits of what is missing, as the tokenizer would choose them. */
  readonly repaired: number;
}

/**
 * @param scales how many of the first scales are given
 * @param share of their bits that are inverted
 */
export async function completed(
  model: TrainedModel,
  count: number,
  { scales, share }: { scales: number; share: number },
): Promise<Completed> {
  const { autoencoder, schedule } = model;
  const psnr = { drawn: new Psnr(), unrepaired: new Psnr(), repaired: new Psnr() };
  const decode = (sum_BHWd: Tensor) => take(autoencoder.decode(sum_BHWd));
  for await (const batch of heldOut(model.size, count)) {
    const features = featuresOf(model, batch);
    const clean = corrupted(features, schedule, { first: batch.first, scales: 0, share: 0 });
    const noisy = corrupted(features, schedule, { first: batch.first, scales, share });
    const given = scope(() => splitScales(noisy.trace!.noisy_BLd, schedule).slice(0, scales));
    const forced = await Promise.all(given.map(async (bits) => Uint8Array.from(await bits.read())));
    const drawn = await drawSum(model, batch, { forced, topK: 1 });
    const mixed = scope(() => sumOfBits([...given, ...splitScales(bitsOf(clean), schedule).slice(scales)], schedule));
    const truth = await decode(clean.sum_BHWd);
    psnr.drawn.add(await decode(drawn), truth);
    psnr.unrepaired.add(await decode(mixed), truth);
    psnr.repaired.add(await decode(noisy.sum_BHWd), truth);
    for (const t of [features, drawn, mixed, ...given]) t.dispose();
    for (const tokens of [clean, noisy]) disposeAll(tokens);
  }
  return { drawn: psnr.drawn.value, unrepaired: psnr.unrepaired.value, repaired: psnr.repaired.value };
}

/** Mean colours on a coarse grid, [pictures, CELLS² · 3]. */
function coarse(images: Float32Array, size: number): Float32Array {
  const cell = size / CELLS;
  const pictures = images.length / (size * size * 3);
  const means = new Float32Array(pictures * CELLS * CELLS * 3);
  for (let i = 0; i < images.length; i++) {
    const [channel, pixel] = [i % 3, Math.floor(i / 3)];
    const [x, y] = [pixel % size, Math.floor(pixel / size) % size];
    const picture = Math.floor(pixel / (size * size));
    const at = (picture * CELLS + Math.floor(y / cell)) * CELLS + Math.floor(x / cell);
    means[at * 3 + channel]! += images[i]! / (cell * cell);
  }
  return means;
}

/** How the pictures that a model draws are distributed, beside those it was trained on. */
export interface Distances {
  /** Sliced Wasserstein distance between drawn pictures and reconstructions of held-out ones with the same captions. */
  readonly drawn: number;
  /** The same between two sets of held-out ones, whose captions differ: a scale for the first. */
  readonly floor: number;
}

/** Plain reconstructions of held-out pictures on the coarse grid, with what `each` does to their batches. */
async function reconstructed(
  model: TrainedModel,
  { count, start }: { count: number; start: number },
  each?: (batch: Batch) => Promise<void>,
): Promise<Float32Array> {
  const { autoencoder, schedule, size } = model;
  const points: number[] = [];
  for await (const batch of heldOut(size, count, start)) {
    const features = featuresOf(model, batch);
    const clean = corrupted(features, schedule, { first: batch.first, scales: 0, share: 0 });
    points.push(...coarse(await take(autoencoder.decode(clean.sum_BHWd)), size));
    features.dispose();
    disposeAll(clean);
    await each?.(batch);
  }
  return Float32Array.from(points);
}

/** Draws freely, without guidance, from the model's own probabilities. */
export async function distances(model: TrainedModel, count: number): Promise<Distances> {
  const drawn: number[] = [];
  const own = await reconstructed(model, { count, start: 0 }, async (batch) => {
    const sum = await drawSum(model, batch, {});
    drawn.push(...coarse(await take(model.autoencoder.decode(sum)), model.size));
    sum.dispose();
  });
  const others = await reconstructed(model, { count, start: count });
  const to = { width: CELLS * CELLS * 3, seed: DRAW_SEED };
  return {
    drawn: slicedWasserstein(Float32Array.from(drawn), own, to),
    floor: slicedWasserstein(others, own, to),
  };
}
