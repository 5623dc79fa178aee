/** `train … --estimate`: memory, disk and time of a training before its first step. */
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { InfinityPipeline } from '../pipeline/index.js';
import { sampleCount } from '../training/config.js';
import { estimateMemory, measureTime, type TrainingMemory, type TrainingTime } from '../training/estimate.js';
import { type OpenTrainingOptions, openTraining, type Training, type TrainingKind } from '../training/open.js';
import { bytes, plain, seconds } from '../training/report/numbers.js';
import { KEPT_STATES } from '../training/run_state.js';

/** What `--estimate --json` tells. */
interface TrainingEstimate extends TrainingMemory {
  /** Most tensor memory, samples included, that are drawn while the training's tensors stay. */
  readonly samplesPeakBytes: number;
  /** Of the exported checkpoint, and of everything on disk at most. */
  readonly checkpointBytes: number;
  readonly diskBytes: number;
  /** Absent where the training does not fit into memory. */
  readonly time?: TrainingTime;
}

async function folderBytes(directory: string): Promise<number> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile());
  const sizes = await Promise.all(files.map(async (file) => (await stat(join(file.parentPath, file.name))).size));
  return sizes.reduce((a, size) => a + size, 0);
}

/** Size of what the training exports, and the memory that drawing with it takes. */
async function lookAtExport(training: Training, directory: string): Promise<[size: number, drawing: number]> {
  const path = join(directory, 'checkpoint');
  await training.export(path);
  const pictures = sampleCount(training.config);
  if (pictures === 0) return [await folderBytes(path), 0];
  return [await folderBytes(path), (await InfinityPipeline.estimate(path, { count: pictures, prompt: 'a' })).peakBytes];
}

/**
 * Memory from a dry run of the first steps, time from a few real ones where they fit.
 * @throws InfinityError as `openTraining` does; the signal's reason
 */
async function estimate(
  kind: TrainingKind,
  options: OpenTrainingOptions,
  signal: AbortSignal,
): Promise<TrainingEstimate> {
  const directory = await mkdtemp(join(tmpdir(), 'node-infinity-estimate-'));
  try {
    let [checkpointBytes, drawing] = [0, 0];
    const memory = await estimateMemory(kind, options, async (training) => {
      [checkpointBytes, drawing] = await lookAtExport(training, directory);
    });
    const resident = memory.weightBytes + memory.momentBytes + memory.averageBytes + memory.otherBytes;
    const told = {
      ...memory,
      samplesPeakBytes: drawing === 0 ? 0 : resident + drawing,
      checkpointBytes,
      // The oldest of the kept states, and the checkpoint before, go when the new ones stand.
      diskBytes: (KEPT_STATES + 1) * memory.stateBytes + 2 * checkpointBytes,
    };
    if (memory.peakBytes > memory.limitBytes) return told;
    signal.throwIfAborted();
    const training = await openTraining(kind, options);
    try {
      return { ...told, time: await measureTime(training, signal) };
    } finally {
      training.dispose();
    }
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

function table(e: TrainingEstimate): string {
  const row = (name: string, value: string): string => `${name.padEnd(34)}${value.padStart(12)}`;
  const size = (name: string, value: number): string => row(name, bytes(value));
  const lines = [
    size('weights', e.weightBytes),
    size('moments of AdamW', e.momentBytes),
    size('averaged weights', e.averageBytes),
    ...(e.otherBytes > 0 ? [size('other tensors, frozen networks', e.otherBytes)] : []),
    size('activations, gradients, scratch', e.stepBytes),
    size('  of these gradients, at the end', e.gradientBytes),
    size('tensor memory, peak', e.peakBytes),
    ...(e.samplesPeakBytes > e.peakBytes ? [size('  while samples are drawn', e.samplesPeakBytes)] : []),
    size('process, while a state is saved', e.stateBytes),
    size('disk, states and checkpoint', e.diskBytes),
    size('  a saved state', e.stateBytes),
    size('  the checkpoint', e.checkpointBytes),
    row('arithmetic of a step', `${plain(e.flops / 1e9)} GFLOP`),
  ];
  if (!e.time)
    return [...lines, `It needs more memory than the ${bytes(e.limitBytes)} that are allowed: lower batch_size.`].join(
      '\n',
    );
  const { secondsPerStep, secondsPerBatch, measuredSteps, totalSeconds } = e.time;
  return [
    ...lines,
    row(`a step, mean of ${measuredSteps}`, seconds(secondsPerStep)),
    ...(secondsPerBatch > secondsPerStep ? [row('  its pictures, which take longer', seconds(secondsPerBatch))] : []),
    row(`${e.iterations} steps, saving aside`, seconds(totalSeconds)),
  ].join('\n');
}

/** The estimate, and the text that tells it. */
export async function trainingEstimate(
  kind: TrainingKind,
  options: OpenTrainingOptions,
  signal: AbortSignal,
): Promise<{ told: TrainingEstimate; text: () => string }> {
  const told = await estimate(kind, options, signal);
  return { told, text: () => table(told) };
}
