/** What a model is made of before it is loaded, wherever it comes from: configurations, open weights on demand, settings. */
import { createHash } from 'node:crypto';
import { basename } from 'node:path';
import type { Checkpoint, ComponentName, Config } from '../io/checkpoint.js';
import { elementCount } from '../io/tensor_data.js';
import type { TensorSource } from '../io/tensor_source.js';
import { floatWeights } from '../io/weights.js';
import type { Module } from '../nn/module.js';
import { T5Encoder } from '../text/t5.js';
import { parseT5Config, type T5Config } from '../text/t5_config.js';
import { TextTokenizer } from '../text/tokenizer.js';
import { Autoencoder } from '../tokenizer/autoencoder.js';
import { type AutoencoderConfig, parseAutoencoderConfig } from '../tokenizer/config.js';
import { type InfinityConfig, parseInfinityConfig } from '../transformer/config.js';
import { InfinityTransformer } from '../transformer/infinity.js';
import { NETWORKS, type NetworkName } from '../weights/find_states.js';
import { modelName } from './model_name.js';
import type { ModelName } from './settings.js';

/** One network: how it is built and where its weights are. */
export interface Part<C> {
  readonly config: C;
  /** For messages: "transformer (infinity_2b_reg.pth)". */
  readonly label: string;
  /** Opens the weights under the names of the network. The caller closes them. */
  open(): Promise<TensorSource>;
}

export interface ModelParts {
  readonly name: string;
  readonly transformer?: Part<InfinityConfig> | undefined;
  readonly vae?: Part<AutoencoderConfig> | undefined;
  readonly text_encoder?: Part<T5Config> | undefined;
  readonly tokenizer?: TextTokenizer | undefined;
  /** The grids of a visual tokenizer that comes alone, as its config.json has them. */
  readonly vaeSchedule?: unknown;
  /** As in generation_config.json. */
  readonly generation: Config;
  /** Name and digest of what decides the pictures. */
  identify(): Promise<ModelName>;
}

/** The components of a checkpoint directory. @throws InfinityError CHECKPOINT_INVALID */
export async function checkpointParts(checkpoint: Checkpoint): Promise<ModelParts> {
  const part = async <C>(name: ComponentName, parse: (json: Config) => C): Promise<Part<C> | undefined> => {
    if (!checkpoint.has(name)) return undefined;
    const label = `${name} (${basename(checkpoint.directory)})`;
    return { config: parse(await checkpoint.config(name)), label, open: () => checkpoint.weights(name) };
  };
  return {
    name: modelName(checkpoint).name,
    vae: await part('vae', parseAutoencoderConfig),
    vaeSchedule: checkpoint.has('vae') ? (await checkpoint.config('vae')).scale_schedule : undefined,
    transformer: await part('transformer', parseInfinityConfig),
    text_encoder: await part('text_encoder', parseT5Config),
    tokenizer: checkpoint.hasTokenizer ? await TextTokenizer.fromFile(checkpoint.tokenizerPath) : undefined,
    generation: await checkpoint.generationConfig(),
    identify: async () => modelName(checkpoint),
  };
}

/** A network, without memory. */
function declareNetwork(name: NetworkName, config: object): Module {
  if (name === 'transformer') return new InfinityTransformer(config as InfinityConfig);
  return name === 'vae' ? new Autoencoder(config as AutoencoderConfig) : new T5Encoder(config as T5Config);
}

/** How the tensors of a source go into a network. */
export interface PartMatch {
  /** Shapes of the network by name. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  /** Name in the network -> name in the source. */
  readonly names: ReadonlyMap<string, string>;
  /** Trained numbers, buffers not counted. */
  readonly parameters: number;
}

/**
 * Compares weights with the network of a part; none is read.
 *
 * @throws InfinityError CHECKPOINT_CONFIG_MISMATCH naming options and tensors
 */
export function matchPart(name: NetworkName, { config, label }: Part<object>, source: TensorSource): PartMatch {
  const network = declareNetwork(name, config);
  try {
    const names = network.matchState(floatWeights(source, label));
    return { names, shapes: network.stateShapes(), parameters: network.parameterCount() };
  } finally {
    network.dispose();
  }
}

/** The parts of a model that are there. */
export function partsOf(parts: ModelParts): [NetworkName, Part<object>][] {
  return NETWORKS.flatMap((name): [NetworkName, Part<object>][] => {
    const part = parts[name];
    return part ? [[name, part]] : [];
  });
}

/** Tensors of up to so many elements enter the digest with their values. */
const DIGEST_ELEMENTS = 1 << 14;

/**
 * A digest for weights that are too large to be read twice: configurations, text tokenizer, names, types and shapes of all tensors, and
 * the values of the small ones. Those are biases, norms and gains, which no two states of a training share.
 */
export async function fingerprint(parts: ModelParts): Promise<string> {
  const hash = createHash('sha256');
  for (const [name, part] of partsOf(parts)) {
    hash.update(`${name} ${JSON.stringify(part.config)}\n`);
    const source = await part.open();
    try {
      for (const [own, from] of [...matchPart(name, part, source).names].sort(([a], [b]) => (a < b ? -1 : 1))) {
        const { dtype, shape } = source.tensors.get(from)!;
        hash.update(`${own} ${dtype} ${shape.join()}\n`);
        if (elementCount(shape) <= DIGEST_ELEMENTS) hash.update((await source.read(from)).data);
      }
    } finally {
      await source.close();
    }
  }
  hash.update(JSON.stringify(parts.tokenizer?.json ?? null));
  return hash.digest('hex');
}
