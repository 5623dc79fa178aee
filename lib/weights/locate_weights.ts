/** Where the weights of a network lie, and what the files around them say of its configuration. */
import { stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { Checkpoint, type Config, isCheckpoint } from '../io/checkpoint.js';
import { readJsonObject } from '../io/model_index.js';
import { tensorsBelow } from '../io/nested_tensors.js';
import { openTensors } from '../io/open_tensors.js';
import { PthFile } from '../io/pth.js';
import type { TensorSource } from '../io/tensor_source.js';
import { weightFile } from '../io/weight_path.js';
import { floatWeights } from '../io/weights.js';
import { chooseState, type FoundState, findStates, type NetworkName } from './find_states.js';

/** Weights whose place is known. */
export interface LocatedWeights {
  /** For messages: "transformer (infinity_2b_reg.pth)". */
  readonly label: string;
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  /** What a config.json beside the weights, or the arguments of a training checkpoint, say of the configuration. */
  readonly said: Config;
  open(): Promise<TensorSource>;
}

async function locateComponent(directory: string, network: NetworkName): Promise<LocatedWeights> {
  const checkpoint = await Checkpoint.open(directory);
  const open = () => checkpoint.weights(network);
  const source = await open();
  try {
    const label = `${network} (${basename(resolve(directory))})`;
    return { label, shapes: floatWeights(source, label).shapes, said: await checkpoint.config(network), open };
  } finally {
    await source.close();
  }
}

async function configBeside(folder: string): Promise<Config> {
  const file = join(folder, 'config.json');
  return (await stat(file).catch(() => undefined)) ? readJsonObject(file) : {};
}

/** Arguments of the official trainer that no tensor tells, and the pixels that it trained on. */
const ARGUMENTS = [
  ...['rope2d_each_sa_layer', 'rope2d_normalized_by_hw', 'add_lvl_embeding_only_first_block', 'use_bit_label'],
  ...['apply_spatial_patchify', 'tau', 'norm_eps', 'pn'],
];

/** What a training checkpoint of the transformer remembers of its command line. */
function argumentsOf(source: TensorSource): Config {
  const args = source instanceof PthFile && source.tree instanceof Map ? source.tree.get('args') : undefined;
  if (!(args instanceof Map)) return {};
  return Object.fromEntries(ARGUMENTS.filter((name) => args.has(name)).map((name) => [name, args.get(name)]));
}

/**
 * One state dict of a file.
 *
 * @param path as it was named: of a folder, the config.json counts
 * @param source the file, open; it stays the caller's
 */
export async function locateState(
  path: string,
  file: string,
  source: TensorSource,
  { network, prefix }: FoundState,
): Promise<LocatedWeights> {
  const at = prefix && `, ${prefix.slice(0, -1)}`;
  const label = `${network} (${basename(resolve(path))}${at})`;
  return {
    label,
    shapes: floatWeights(tensorsBelow(source, prefix), label).shapes,
    said: {
      ...(network === 'transformer' && argumentsOf(source)),
      ...(file === path ? {} : await configBeside(dirname(file))),
    },
    open: async () => tensorsBelow(await openTensors(file), prefix),
  };
}

/**
 * The weights of a network at a path.
 *
 * @param ema take the averaged ones, or 'preferred' where there are any
 * @throws InfinityError MODEL_NOT_FOUND, CHECKPOINT_INVALID, UNSAFE_PICKLE
 */
export async function locateWeights(
  path: string,
  network: NetworkName,
  ema: boolean | 'preferred',
): Promise<LocatedWeights> {
  if (await isCheckpoint(path)) return locateComponent(path, network);
  const file = await weightFile(path);
  const source = await openTensors(file);
  try {
    return await locateState(path, file, source, chooseState(findStates(source.tensors.keys()), network, ema, file));
  } finally {
    await source.close();
  }
}

/** Whether a file of a transformer brings the visual tokenizer along. */
export async function bringsTokenizer(path: string): Promise<boolean> {
  if (await isCheckpoint(path)) return (await Checkpoint.open(path, { sizesOnly: true })).has('vae');
  const source = await openTensors(await weightFile(path));
  try {
    return findStates(source.tensors.keys()).some(({ network }) => network === 'vae');
  } finally {
    await source.close();
  }
}
