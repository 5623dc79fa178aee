/** Any loadable model as a checkpoint directory, one tensor in memory at a time. */
import { invalidArgument } from '../errors.js';
import { type Config, type WritableComponent, writeCheckpoint } from '../io/checkpoint.js';
import {
  DTYPE_BYTES,
  elementCount,
  fromFloat32,
  type LazyTensor,
  type TensorDType,
  toFloat32,
} from '../io/tensor_data.js';
import type { TensorSource } from '../io/tensor_source.js';
import type { NetworkName } from '../weights/find_states.js';
import { openModel } from './load_options.js';
import { type ModelParts, matchPart, type Part, partsOf } from './model_parts.js';
import type { PretrainedParts } from './official_parts.js';
import { checkFunction, checkSignal, invalidOption, refuseUnknown } from './options.js';

export interface ConvertProgress {
  readonly component: NetworkName;
  /** Bytes written of all components, and how many there are. */
  readonly bytes: number;
  readonly ofBytes: number;
}

export interface ConvertOptions {
  /** How the weights are stored: as they were, or rounded. Default 'keep'. */
  readonly dtype?: 'keep' | 'f32' | 'bf16' | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: ConvertProgress) => void) | undefined;
}

const STORED = { f32: 'F32', bf16: 'BF16' } as const;
type Target = keyof typeof STORED | 'keep';

/** A component that is about to be written. */
interface Opened {
  readonly name: NetworkName;
  readonly source: TensorSource;
  readonly config: Config;
  readonly tensors: ReadonlyMap<string, LazyTensor>;
}

function lazyTensor(source: TensorSource, from: string, target: Target): LazyTensor {
  const { dtype: stored, shape } = source.tensors.get(from)!;
  const dtype: TensorDType = target === 'keep' ? stored : STORED[target];
  const load = async (): Promise<Uint8Array> => {
    const tensor = await source.read(from);
    return dtype === stored ? tensor.data : fromFloat32(toFloat32(tensor), shape, dtype as 'F32' | 'BF16').data;
  };
  return { dtype, shape, load };
}

async function openPart(name: NetworkName, part: Part<object>, parts: ModelParts, target: Target): Promise<Opened> {
  const source = await part.open();
  try {
    const { names, shapes } = matchPart(name, part, source);
    const tensors = new Map([...names].map(([own, from]) => [own, lazyTensor(source, from, target)]));
    for (const [own, { shape }] of tensors)
      if (shape.join() !== shapes.get(own)!.join())
        invalidArgument(
          'the configuration',
          `${shape[0]} rows of "${own}", as the file has,`,
          shapes.get(own),
          'Convert the weights as they are; a checkpoint can be loaded with another number of rows.',
        );
    // Grids that a visual tokenizer was trained on stand beside its own options.
    const schedule = name === 'vae' && parts.vaeSchedule !== undefined ? { scale_schedule: parts.vaeSchedule } : {};
    return { name, source, config: { ...part.config, ...schedule }, tensors };
  } catch (error) {
    await source.close();
    throw error;
  }
}

/** The tensors, with a word of progress before each and an end between two when the signal says so. */
function observed(
  opened: readonly Opened[],
  { signal, onProgress }: ConvertOptions,
): [NetworkName, WritableComponent][] {
  const bytesOf = ({ dtype, shape }: LazyTensor): number => elementCount(shape) * DTYPE_BYTES[dtype];
  const ofBytes = opened.reduce(
    (sum, { tensors }) => [...tensors.values()].reduce((all, tensor) => all + bytesOf(tensor), sum),
    0,
  );
  let bytes = 0;
  return opened.map(({ name: component, config, tensors }) => {
    const watched = [...tensors].map(([name, tensor]): [string, LazyTensor] => [
      name,
      {
        ...tensor,
        load: async () => {
          signal?.throwIfAborted();
          const data = await tensor.load();
          bytes += data.byteLength;
          onProgress?.({ component, bytes, ofBytes });
          return data;
        },
      },
    ]);
    return [component, { config, tensors: new Map(watched) }];
  });
}

/**
 * Writes a checkpoint directory from official files, from components of other directories, or from another directory. Names become the
 * official ones, tensors that belong to nothing are left out, and configurations and settings of generation are written beside the weights.
 *
 * @param source as for `fromPretrained`, except that any part may come alone
 * @param directory appears whole or not at all
 * @throws InfinityError as `fromPretrained` does; IO_ERROR, DISK_FULL; the signal's reason
 */
export async function convertCheckpoint(
  source: string | PretrainedParts,
  directory: string,
  options: ConvertOptions = {},
): Promise<void> {
  refuseUnknown(options, ['dtype', 'signal', 'onProgress'], 'convertCheckpoint');
  const { dtype = 'keep', signal, onProgress } = options;
  if (!['keep', ...Object.keys(STORED)].includes(dtype)) invalidOption('dtype', "'keep', 'f32' or 'bf16'", dtype);
  checkSignal(signal);
  checkFunction('onProgress', onProgress);
  if (typeof directory !== 'string' || directory === '')
    invalidArgument('the directory', 'a path', directory, 'Say where the checkpoint goes.');
  signal?.throwIfAborted();
  const parts = await openModel(source);
  const opened: Opened[] = [];
  try {
    for (const [name, part] of partsOf(parts)) opened.push(await openPart(name, part, parts, dtype));
    await writeCheckpoint(directory, {
      components: Object.fromEntries(observed(opened, options)),
      ...(parts.tokenizer && { tokenizer: parts.tokenizer.json }),
      ...(Object.keys(parts.generation).length > 0 && { generationConfig: parts.generation }),
    });
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  } finally {
    await Promise.all(opened.map(({ source: file }) => file.close()));
  }
}
