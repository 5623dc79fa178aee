/** What is loaded and how: the options of `fromPretrained`, and the model that they name. */
import { join } from 'node:path';
import type { DeviceKind } from '../device.js';
import { InfinityError, invalidArgument } from '../errors.js';
import { Checkpoint, type OpenOptions } from '../io/checkpoint.js';
import { resolveModelSource } from '../io/hub/index.js';
import { packageRoot } from '../native.js';
import type { LoadProgress, Tiling } from './load.js';
import { checkpointParts, type ModelParts } from './model_parts.js';
import { officialParts, type PretrainedParts } from './official_parts.js';
import { checkBoolean, checkFunction, checkSignal, invalidOption, refuseUnknown } from './options.js';

export interface LoadOptions {
  /** Default 'auto', the processor; 'cuda' is an NVIDIA card. */
  readonly device?: 'auto' | DeviceKind | undefined;
  /**
   * With false, a card takes the fastest way that it measures for each matrix product, and the pipeline gets a device of its own:
   * pictures of a seed may then differ from run to run. The processor is deterministic either way. Default true.
   */
  readonly deterministic?: boolean | undefined;
  /** Threads of the processor. Given, the pipeline gets a device of its own; otherwise all pipelines share one a kind. */
  readonly threads?: number | undefined;
  /**
   * How the weights are kept: 'f32' or 'bf16', which halves the memory. The processor computes in f32 either way; on a card the
   * activations of transformer and decoder are of the same type, with sums in f32. Default 'auto': f32, on a card bf16.
   */
  readonly dtype?: 'auto' | 'f32' | 'bf16' | undefined;
  /**
   * Text encoder, transformer and visual tokenizer are in memory one at a time and read from disk again when they are needed. The
   * results are the same; requests that overlap take turns. Default false.
   */
  readonly offload?: boolean | undefined;
  /**
   * Decodes pictures in bands of rows, with less than half the memory for activations. The pictures are the same. Default 'auto':
   * where a whole picture would take more than a quarter of the memory.
   */
  readonly tile?: Tiling | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
}

const LOAD_OPTIONS = ['device', 'deterministic', 'threads', 'dtype', 'offload', 'tile', 'signal', 'onProgress'];

/** The checkpoint that travels inside the package. */
export function embeddedModel(): string {
  return join(packageRoot(), 'models', 'shapes');
}

/** @throws InfinityError MODEL_NOT_FOUND, CHECKPOINT_INVALID, CHECKPOINT_CONFIG_MISMATCH, UNSAFE_PICKLE */
export async function openModel(
  source: string | PretrainedParts | undefined,
  opening: OpenOptions = {},
): Promise<ModelParts> {
  if (typeof source === 'object') return officialParts(source);
  if (source !== undefined) return checkpointParts(await Checkpoint.open(await resolveModelSource(source), opening));
  const checkpoint = await Checkpoint.open(embeddedModel(), opening).catch((cause) => {
    if (!(cause instanceof InfinityError) || cause.code !== 'MODEL_NOT_FOUND') throw cause;
    throw new InfinityError('MODEL_NOT_FOUND', 'This copy of the package has no embedded model.', {
      value: embeddedModel(),
      cure: 'Install the package again, or pass the directory of a checkpoint.',
      cause,
    });
  });
  return checkpointParts(checkpoint);
}

/** @throws InfinityError INVALID_ARGUMENT, DEVICE_UNAVAILABLE */
export function checkLoadOptions(source: unknown, options: LoadOptions): void {
  const parts = typeof source === 'object' && source !== null;
  if (source !== undefined && !parts && (typeof source !== 'string' || source === ''))
    invalidArgument(
      'the model',
      'the directory of a checkpoint, or the paths of its parts',
      source,
      'Leave it out for the embedded model.',
    );
  refuseUnknown(options, LOAD_OPTIONS, 'fromPretrained');
  const { device = 'auto', deterministic = true, dtype = 'auto', offload = false, tile = 'auto' } = options;
  const { signal, onProgress } = options;
  if (!['auto', 'cpu', 'cuda'].includes(device)) invalidOption('device', "'auto', 'cpu' or 'cuda'", device);
  if (!['auto', 'f32', 'bf16'].includes(dtype)) invalidOption('dtype', "'auto', 'f32' or 'bf16'", dtype);
  checkBoolean('deterministic', deterministic);
  checkBoolean('offload', offload);
  if (!['auto', true, false].includes(tile)) invalidOption('tile', "'auto', true or false", tile);
  checkSignal(signal);
  checkFunction('onProgress', onProgress);
}
