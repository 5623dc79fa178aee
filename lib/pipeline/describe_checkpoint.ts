/** What checkpoints and files of weights hold, from configurations and headers: no weight is read. */
import { basename, resolve } from 'node:path';
import { Checkpoint, COMPONENTS, type ComponentName, type Config } from '../io/checkpoint.js';
import { tensorsBelow } from '../io/nested_tensors.js';
import { openTensors } from '../io/open_tensors.js';
import { DTYPE_BYTES, elementCount, type TensorInfo } from '../io/tensor_data.js';
import type { TensorSource } from '../io/tensor_source.js';
import { weightFile } from '../io/weight_path.js';
import { inferT5Config } from '../text/infer_config.js';
import { inferAutoencoderConfig } from '../tokenizer/infer_config.js';
import type { InfinityConfig } from '../transformer/config.js';
import { inferInfinityConfig, publishedSize } from '../transformer/infer_config.js';
import { type FoundState, findStates, type NetworkName } from '../weights/find_states.js';
import { type LocatedWeights, locateState } from '../weights/locate_weights.js';
import { modelName } from './model_name.js';
import { matchPart } from './model_parts.js';
import { type PresetName, presetOf } from './presets.js';
import type { ModelName } from './settings.js';

/** Numbers of tensors, elements and bytes, and the elements of each stored type, such as { BF16: 4600000 }. */
export interface TensorSummary {
  readonly tensors: number;
  readonly elements: number;
  readonly bytes: number;
  readonly dtypes: Readonly<Record<string, number>>;
}

export interface ComponentDescription {
  readonly config: Config;
  readonly tensors: number;
  readonly parameters: number;
  /** Parameters by stored type, such as { BF16: 4600000 }. */
  readonly dtypes: Readonly<Record<string, number>>;
}

export interface CheckpointDescription extends ModelName {
  readonly components: Readonly<Partial<Record<ComponentName, ComponentDescription>>>;
  readonly generationConfig: Config;
  readonly bytes: number;
}

/** A network among the tensors of a file. */
export interface StateDescription extends TensorSummary {
  readonly network: NetworkName;
  /** The keys that lead to it, with dots between them; empty where the file holds nothing else. */
  readonly at: string;
  /** Averaged weights, by the name of their place. */
  readonly ema: boolean;
  /** The configuration that the tensors tell; what they cannot tell is as released. */
  readonly config: Config;
  /** Trained numbers, buffers not counted. */
  readonly parameters: number;
  /** The published size, such as "infinity_2b". */
  readonly size?: string | undefined;
  /** The released model whose settings it would draw with. */
  readonly preset?: PresetName | undefined;
  /** Tensors below it that belong to no network: masks, counters, losses. */
  readonly unused: readonly string[];
}

export interface WeightsDescription extends TensorSummary {
  readonly file: string;
  readonly networks: readonly StateDescription[];
  /** What belongs to none of them, such as the state of an optimizer. */
  readonly other: TensorSummary;
}

function summary(infos: Iterable<TensorInfo>): TensorSummary {
  const dtypes: Record<string, number> = {};
  let [tensors, elements, bytes] = [0, 0, 0];
  for (const { dtype, shape } of infos) {
    const count = elementCount(shape);
    tensors++;
    elements += count;
    bytes += count * DTYPE_BYTES[dtype];
    dtypes[dtype] = (dtypes[dtype] ?? 0) + count;
  }
  return { tensors, elements, bytes, dtypes };
}

async function describeComponent(checkpoint: Checkpoint, name: ComponentName): Promise<ComponentDescription> {
  const config = await checkpoint.config(name);
  const source = await checkpoint.weights(name);
  try {
    const { tensors, elements: parameters, dtypes } = summary(source.tensors.values());
    return { config, tensors, parameters, dtypes };
  } finally {
    await source.close();
  }
}

/**
 * Describes a checkpoint directory. File sizes are compared with its index, contents are not.
 *
 * @throws InfinityError MODEL_NOT_FOUND, CHECKPOINT_INVALID
 */
export async function describeCheckpoint(directory: string): Promise<CheckpointDescription> {
  const checkpoint = await Checkpoint.open(directory, { sizesOnly: true });
  const components: Partial<Record<ComponentName, ComponentDescription>> = {};
  for (const name of COMPONENTS) if (checkpoint.has(name)) components[name] = await describeComponent(checkpoint, name);
  const bytes = Object.values(checkpoint.index.files).reduce((sum, file) => sum + file.bytes, 0);
  return { ...modelName(checkpoint), components, generationConfig: await checkpoint.generationConfig(), bytes };
}

async function describeState(
  located: LocatedWeights,
  state: FoundState,
  below: TensorSource,
): Promise<StateDescription> {
  const { network, prefix, ema } = state;
  const { label, shapes, said, open } = located;
  const config: object =
    network === 'transformer'
      ? inferInfinityConfig(shapes, { given: said })
      : (network === 'vae' ? inferAutoencoderConfig : inferT5Config)(shapes, said);
  const { names, parameters } = matchPart(network, { config, label, open }, below);
  const used = new Set(names.values());
  const transformer = network === 'transformer' ? (config as InfinityConfig) : undefined;
  return {
    ...{ network, at: prefix.slice(0, -1), ema, parameters },
    ...(transformer && { size: publishedSize(transformer), preset: presetOf(transformer, label) }),
    ...summary([...used].map((name) => below.tensors.get(name)!)),
    unused: [...below.tensors.keys()].filter((name) => !used.has(name)),
    config: { ...config },
  };
}

/**
 * Describes a file of weights of any kind that can be loaded, or a folder of one: which networks it holds and where, the configurations
 * that their tensors tell, parameters, types, bytes, and what belongs to nothing.
 *
 * @throws InfinityError MODEL_NOT_FOUND, CHECKPOINT_INVALID, UNSAFE_PICKLE, CHECKPOINT_CONFIG_MISMATCH
 */
export async function describeWeights(path: string): Promise<WeightsDescription> {
  const file = await weightFile(path);
  const source = await openTensors(file);
  try {
    const networks: StateDescription[] = [];
    const claimed = new Set<string>();
    const names = [...source.tensors.keys()];
    for (const state of findStates(names)) {
      const below = tensorsBelow(source, state.prefix);
      networks.push(await describeState(await locateState(path, file, source, state), state, below));
      for (const name of below.tensors.keys()) claimed.add(state.prefix + name);
    }
    const rest = [...tensorsBelow(source, '').tensors].filter(([name]) => !claimed.has(name)).map(([, info]) => info);
    return { file: basename(resolve(file)), ...summary(source.tensors.values()), networks, other: summary(rest) };
  } finally {
    await source.close();
  }
}
