/**
 * What a training starts from: a checkpoint directory, or a network's weights as they are published. What does not fit the new
 * tokenizer or text encoder starts anew. Source: Infinity, train.py (rush_resume).
 */
import { dirname, join, normalize } from 'node:path';
import { describe, InfinityError } from '../errors.js';
import { Checkpoint, type Config, isCheckpoint, type WritableComponent } from '../io/checkpoint.js';
import { resolveModelSource } from '../io/hub/index.js';
import type { LazyTensor } from '../io/tensor_data.js';
import { floatWeights } from '../io/weights.js';
import type { Module } from '../nn/module.js';
import type { Shape } from '../tensor.js';
import { defaultNormGroups } from '../tokenizer/blocks.js';
import type { InfinityTransformer } from '../transformer/infinity.js';
import type { NetworkName } from '../weights/find_states.js';
import { type LocatedWeights, locateWeights } from '../weights/locate_weights.js';
import { savedStates } from './run_state.js';

/** A checkpoint, or weights of the one network that is trained. */
export type Start = Checkpoint | LocatedWeights;

/**
 * @param path a checkpoint directory, a file of weights (.pth, .safetensors, .bin), the index of a folder of shards, a folder that
 *   holds one of these, or a pulled repository
 * @throws InfinityError INVALID_ARGUMENT, MODEL_NOT_FOUND, CHECKPOINT_INVALID, UNSAFE_PICKLE
 */
export async function openStart(path: string, network: NetworkName): Promise<Start> {
  const found = await resolveModelSource(path);
  await refuseRun(normalize(found));
  return (await isCheckpoint(found)) ? Checkpoint.open(found) : locateWeights(found, network, false);
}

/** States hold moments and averages beside the weights: what of them was meant, only their run knows. */
async function refuseRun(path: string): Promise<void> {
  const folder = dirname(path);
  const isState = (await savedStates(folder)).some((state) => state.path === path);
  if (!isState && (await savedStates(path)).length === 0) return;
  throw new InfinityError(
    'INVALID_ARGUMENT',
    `Expected weights to start from but ${path} is ${isState ? 'a state' : 'the directory'} of a run.`,
    {
      value: path,
      cure: `Pass ${join(isState ? folder : path, 'checkpoint')}, which the run exported; to go on with the run itself, name its directory as --out.`,
    },
  );
}

async function located(start: Start, network: NetworkName): Promise<LocatedWeights> {
  if (!(start instanceof Checkpoint)) return start;
  if (!start.has(network))
    throw new InfinityError('CHECKPOINT_INVALID', `Expected a ${network} in ${start.directory} but found none.`, {
      value: start.directory,
      cure: 'Check which checkpoint is which.',
    });
  const label = `${network} (${start.directory})`;
  const source = await start.weights(network);
  await source.close();
  const [{ shapes }, said] = [floatWeights(source, label), await start.config(network)];
  return { label, shapes, said, open: () => start.weights(network) };
}

/** A network that knows how it was built. */
type Configured = Module & { readonly config: object };

/** Options that change what a network computes but no name and no shape of a tensor. */
const UNTOLD: Readonly<Record<NetworkName, readonly string[]>> = {
  transformer: ['rope2d_normalized_by_hw', 'add_lvl_embeding_only_first_block', 'norm_eps'],
  vae: ['norm_groups'],
  text_encoder: ['relative_attention_max_distance', 'layer_norm_epsilon'],
};

/** The value of an option; that of `norm_groups` follows from the width where it is left out. */
function optionValue(config: Config, option: string): unknown {
  const { base_ch, [option]: value } = config;
  return value ?? (option === 'norm_groups' && typeof base_ch === 'number' ? defaultNormGroups(base_ch) : undefined);
}

/** What the files of a start say of its network must hold for this one: loaded into another, its weights would mean nothing. */
function checkUntold(own: Config, { label, said }: LocatedWeights, network: NetworkName): void {
  for (const option of UNTOLD[network]) {
    const [value, found] = [optionValue(own, option), optionValue(said, option)];
    // The official arguments write 1 for true.
    if (found === undefined || Number(found) === Number(value)) continue;
    throw new InfinityError(
      'CHECKPOINT_CONFIG_MISMATCH',
      `Expected '${option}' ${describe(found)}, with which ${label} was trained, but the training's is ${describe(value)}.`,
      { value, fields: { options: [option] }, cure: `Set ${option} to ${describe(found)} in the training's config.` },
    );
  }
}

/** Fills `module` with the weights of a start but for `keep`. @throws InfinityError CHECKPOINT_INVALID, CHECKPOINT_CONFIG_MISMATCH */
export async function loadStart(
  module: Configured,
  start: Start,
  network: NetworkName,
  keep?: ReadonlySet<string>,
): Promise<void> {
  const found = await located(start, network);
  const { label, open } = found;
  const source = await open();
  try {
    const weights = floatWeights(source, label);
    // Tensors that do not fit tell more than options do.
    module.matchState(weights, keep);
    checkUntold({ ...module.config }, found, network);
    await module.loadFrom(weights, { keep });
  } finally {
    await source.close();
  }
}

/** What sees the bits of a token: the embedding of codes with its norm, and the last layer of the classifier. */
const OF_BITS = /^(word_embed\.weight|norm0_ve\.\w+|head\.(2\.)?(weight|bias))$/;

/** Tensors of the network that cannot be those of the weights: all of the text side where texts have another width, and what sees bits where those are others. */
function unfitting(model: InfinityTransformer, shapes: ReadonlyMap<string, Shape>): string[] {
  const width = shapes.get('cfg_uncond')?.[1];
  const text = width === undefined || width === model.config.text_channels ? [] : [...model.text.stateShapes().keys()];
  const bits = [...model.stateShapes()].filter(([name, shape]) => {
    const found = shapes.get(name);
    return OF_BITS.test(name) && found !== undefined && found.join() !== shape.join();
  });
  return [...text, ...bits.map(([name]) => name)];
}

/**
 * Fills a transformer that has its initial values with the weights of a start. Blocks must fit; see `unfitting` for what need not.
 * @returns lines that name what was left out; none where all fitted
 * @throws InfinityError CHECKPOINT_CONFIG_MISMATCH
 */
export async function startTransformer(model: InfinityTransformer, start: Start): Promise<readonly string[]> {
  const { label, shapes } = await located(start, 'transformer');
  const own = model.stateShapes();
  const dropped = unfitting(model, shapes);
  await loadStart(model, start, 'transformer', new Set(dropped));
  const shown = (shape: Shape | undefined): string => (shape ? `[${shape.join(', ')}]` : 'none');
  return dropped.map(
    (name) => `"${name}" ${shown(own.get(name))} starts anew: ${label} has ${shown(shapes.get(name))}`,
  );
}

/** The component of a checkpoint as it stands there; its tensors are read while they are written. The caller closes it. */
export async function openComponent(
  checkpoint: Checkpoint,
  network: NetworkName,
): Promise<{ readonly component: WritableComponent; close(): Promise<void> }> {
  const [config, source] = [await checkpoint.config(network), await checkpoint.weights(network)];
  const tensors = [...source.tensors].map(([name, { dtype, shape }]): [string, LazyTensor] => [
    name,
    { dtype, shape, load: async () => (await source.read(name)).data },
  ]);
  return { component: { config, tensors: new Map(tensors) }, close: () => source.close() };
}
