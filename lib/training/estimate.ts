/**
 * What a training would take. Memory: its first steps are submitted to a dry device, command by command, so that the figures follow the
 * code. Time: a few real steps.
 */
import { type Batch, drawBatch } from '../data/batch.js';
import { openDataset } from '../data/dataset.js';
import { Device } from '../device.js';
import { observeFlops } from '../ops/flops.js';
import { type Shape, sizeOf } from '../tensor.js';
import { type OpenTrainingOptions, openTraining, type Training, type TrainingKind } from './open.js';
import { planStages, type RunStage, ratesAt, sampleAt, totalSteps } from './stages.js';

/** Steps of a stage that are tried: sizes, captions and dropped scales differ between them. */
const FIRST = 12;
const LAST = 4;
/** Pictures that are drawn for a batch in the dry run, where their values mean nothing and their captions little. */
const DISTINCT = 64;
/** Real steps of a stage after the first, which fills caches: at least and at most so many, and so long. */
const [LEAST, MOST] = [3, 12];
const SECONDS = 10;

/** Bytes of tensors, unless it says otherwise. */
export interface TrainingMemory {
  readonly weightBytes: number;
  /** Both moments of AdamW, and the averaged weights. */
  readonly momentBytes: number;
  readonly averageBytes: number;
  /** Of all weights together; they come as activations go. */
  readonly gradientBytes: number;
  /** What lives between steps beside these: frozen networks. */
  readonly otherBytes: number;
  /** Most that a step takes beside what lives between steps: activations, gradients and scratch. */
  readonly stepBytes: number;
  /** Most at any time. */
  readonly peakBytes: number;
  /** What the device may hold. */
  readonly limitBytes: number;
  /** Bytes of a saved state; the process holds as many, outside of tensors, while it saves one. */
  readonly stateBytes: number;
  /** Floating-point operations of a step in products and convolutions, the mean of those that were tried. */
  readonly flops: number;
  /** Steps of the whole training. */
  readonly iterations: number;
}

const bytesOf = (tensors: Iterable<readonly [string, { readonly shape: Shape }]>, prefix = ''): number => {
  let bytes = 0;
  for (const [name, { shape }] of tensors) if (name.startsWith(prefix)) bytes += 4 * sizeOf(shape);
  return bytes;
};

const stagesOf = (training: Training): readonly RunStage[] =>
  training.stages ?? planStages([{ config: training.config, source: training.source }]);

/** The batch of a step, of at most `distinct` samples. */
async function batchOf(training: Training, stage: RunStage, step: number, distinct = Infinity): Promise<Batch> {
  const { batch_size: size } = stage.config;
  const samples = training.samplesAt?.(step) ?? size;
  // Where a batch begins decides its size, so that a smaller one begins at a multiple of its own.
  const count = Math.min(size, distinct);
  const first = Math.floor(sampleAt(stage, step) / count) * count;
  const wanted = Math.min(count, samples);
  return filled(await drawBatch(openDataset(stage.source), { first, count, wanted }), samples);
}

/** A batch of `size` samples: those that there are, over and over. */
function filled(batch: Batch, size: number): Batch {
  const count = batch.captions.length;
  if (count === size) return batch;
  const stride = batch.pixels.length / count;
  const pixels = new Uint8Array(size * stride);
  for (let at = 0; at < pixels.length; at += batch.pixels.length)
    pixels.set(batch.pixels.subarray(0, pixels.length - at), at);
  return { ...batch, pixels, captions: Array.from({ length: size }, (_, i) => batch.captions[i % count]!) };
}

async function doStep(training: Training, stage: RunStage, batch: Batch, step: number): Promise<void> {
  await training.step(batch, step, ratesAt(stage, step));
  await training.device.sync();
}

/** Steps that may differ: the first of a stage, and its last, when everything that sets in later has done so. */
function stepsOf({ firstStep, config: { iterations } }: RunStage): number[] {
  const end = firstStep + iterations;
  const first = Array.from({ length: Math.min(FIRST, iterations) }, (_, i) => firstStep + i);
  const last = Array.from({ length: Math.min(LAST, iterations) }, (_, i) => end - 1 - i).reverse();
  return [...new Set([...first, ...last])];
}

/**
 * Memory and arithmetic of a training. Takes no memory for tensors, and computes nothing.
 * @param use is handed the training on its dry device before that ends
 * @throws InfinityError as `openTraining` does, except for memory
 */
export async function estimateMemory(
  kind: TrainingKind,
  options: OpenTrainingOptions,
  use: (training: Training) => Promise<void> = async () => {},
): Promise<TrainingMemory> {
  const { threads, ...opening } = options;
  const device = Device.create('cpu', { ...(threads && { threads }), dry: true });
  try {
    // What a dry device gives must not be kept.
    const training = await openTraining(kind, { ...opening, device, cache: false });
    const loadPeak = device.resetPeak().peakBytes;
    const resident = device.stats().liveBytes;
    let flops = 0;
    const stop = observeFlops(device, (n) => {
      flops += n;
    });
    const stages = stagesOf(training);
    let tried = 0;
    for (const stage of stages)
      for (const step of stepsOf(stage)) {
        await doStep(training, stage, await batchOf(training, stage, step, DISTINCT), step);
        tried++;
      }
    stop();
    const { peakBytes: stepPeak, limitBytes } = device.stats();
    const weightBytes = bytesOf(training.weights());
    const optimizers = [training.optimizer, ...(training.otherOptimizers ?? [])];
    const state = optimizers.flatMap((optimizer) => [...optimizer.stateTensors()]);
    const [momentBytes, averageBytes] = [bytesOf(state, 'm.') + bytesOf(state, 'v.'), bytesOf(state, 'average.')];
    await use(training);
    training.dispose();
    return {
      weightBytes,
      momentBytes,
      averageBytes,
      gradientBytes: weightBytes,
      otherBytes: Math.max(0, resident - weightBytes - momentBytes - averageBytes),
      stepBytes: stepPeak - resident,
      peakBytes: Math.max(stepPeak, loadPeak),
      limitBytes,
      stateBytes: weightBytes + momentBytes + averageBytes,
      flops: flops / tried,
      iterations: totalSteps(stages),
    };
  } finally {
    device.close();
  }
}

/** Time of a training on this machine. */
export interface TrainingTime {
  /** Means over the training, of the steps that were measured. */
  readonly secondsPerStep: number;
  /** Drawing the pictures of a batch, which a thread of its own does while a step computes. */
  readonly secondsPerBatch: number;
  readonly measuredSteps: number;
  /** Of all steps, without saving. */
  readonly totalSeconds: number;
}

/**
 * Does the last few steps of every stage and measures them: then everything that sets in later has done so. The training is spoilt by it.
 * @throws what a step throws; the signal's reason
 */
export async function measureTime(training: Training, signal?: AbortSignal): Promise<TrainingTime> {
  const stages = stagesOf(training);
  const all = { step: 0, batch: 0, total: 0, count: 0 };
  for (const stage of stages) {
    const { iterations } = stage.config;
    const last = stage.firstStep + iterations - 1;
    const begin = performance.now();
    let [count, stepSeconds, batchSeconds] = [0, 0, 0];
    for (let i = 0; count < LEAST || (count < MOST && performance.now() - begin < 1000 * SECONDS); i++) {
      signal?.throwIfAborted();
      const step = last - (i % iterations);
      const start = performance.now();
      const batch = await batchOf(training, stage, step);
      const drawn = performance.now();
      await doStep(training, stage, batch, step);
      if (i === 0) continue;
      count++;
      batchSeconds += (drawn - start) / 1000;
      stepSeconds += (performance.now() - drawn) / 1000;
    }
    all.count += count;
    all.step += (iterations * stepSeconds) / count;
    all.batch += (iterations * batchSeconds) / count;
    all.total += (iterations * Math.max(stepSeconds, batchSeconds)) / count;
  }
  const steps = totalSteps(stages);
  return {
    secondsPerStep: all.step / steps,
    secondsPerBatch: all.batch / steps,
    measuredSteps: all.count,
    totalSeconds: all.total,
  };
}
