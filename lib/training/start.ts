/**
 * What a training starts from: a checkpoint directory, or a network's weights as they are published. What does not fit the new
 * tokenizer or text encoder starts anew. Source: Infinity, train.py (rush_resume).
 */
import { Checkpoint, isCheckpoint, type WritableComponent } from '../io/checkpoint.js';
import { resolveModelSource } from '../io/hub/index.js';
import type { LazyTensor } from '../io/tensor_data.js';
import { floatWeights } from '../io/weights.js';
import type { Module } from '../nn/module.js';
import type { Shape } from '../tensor.js';
import type { InfinityTransformer } from '../transformer/infinity.js';
import type { NetworkName } from '../weights/find_states.js';
import { type LocatedWeights, locateWeights } from '../weights/locate_weights.js';

/** A checkpoint, or weights of the one network that is trained. */
export type Start = Checkpoint | LocatedWeights;

/**
 * @param path a checkpoint directory, a file of weights (.pth, .safetensors, .bin), the index of a folder of shards, a folder that
 *   holds one of these, or a pulled repository
 * @throws InfinityError MODEL_NOT_FOUND, CHECKPOINT_INVALID, UNSAFE_PICKLE
 */
export async function openStart(path: string, network: NetworkName): Promise<Start> {
  const found = await resolveModelSource(path);
  return (await isCheckpoint(found)) ? Checkpoint.open(found) : locateWeights(found, network, false);
}

async function located(start: Start, network: NetworkName): Promise<Omit<LocatedWeights, 'said'>> {
  if (!(start instanceof Checkpoint)) return start;
  const label = `${network} (${start.directory})`;
  const source = await start.weights(network);
  await source.close();
  return { label, shapes: floatWeights(source, label).shapes, open: () => start.weights(network) };
}

/** Fills `module` with the weights of a start but for `keep`. @throws InfinityError CHECKPOINT_CONFIG_MISMATCH */
export async function loadStart(
  module: Module,
  start: Start,
  network: NetworkName,
  keep?: ReadonlySet<string>,
): Promise<void> {
  const { label, open } = await located(start, network);
  const source = await open();
  try {
    await module.loadFrom(floatWeights(source, label), { keep });
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
