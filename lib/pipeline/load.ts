/** From the parts of a model to networks that are ready to draw. */
import type { Device } from '../device.js';
import { digested, floatWeights } from '../io/weights.js';
import { type Module, placed, type WeightFormat } from '../nn/module.js';
import { T5Encoder } from '../text/t5.js';
import type { TextTokenizer } from '../text/tokenizer.js';
import { Autoencoder } from '../tokenizer/autoencoder.js';
import type { TokenizerName } from '../tokenizer/bit_file.js';
import { InfinityTransformer } from '../transformer/infinity.js';
import type { NetworkName } from './find_states.js';
import type { ModelParts, Part } from './model_parts.js';
import { checkTogether, type NeededParts, neededParts, sizesOf } from './needed_parts.js';
import type { SizeChoice } from './sizes.js';

export interface LoadProgress {
  readonly component: NetworkName;
  /** Networks that are complete, and how many there are. */
  readonly done: number;
  readonly of: number;
}

export interface LoadModelOptions {
  readonly device: Device;
  readonly format: WeightFormat;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
}

/** What turns a prompt into bits. */
export interface Generator {
  readonly tokenizer: TextTokenizer;
  readonly textEncoder: T5Encoder;
  readonly transformer: InfinityTransformer;
}

interface Networks {
  readonly sizes: readonly SizeChoice[];
  readonly autoencoder: Autoencoder;
  /** Absent where the checkpoint holds the visual tokenizer alone. */
  readonly generator: Generator | undefined;
}

export interface Model extends Networks {
  /** Stands in the bits that the autoencoder makes. */
  readonly tokenizer: TokenizerName;
}

/** Fills a network. @returns the digest of its weights where it is asked for */
async function fill(
  module: Module,
  part: Part<unknown>,
  { format: freeze, signal }: LoadModelOptions,
  digest: boolean,
): Promise<string> {
  const source = await part.open();
  try {
    const weights = floatWeights(source, part.label);
    const own = new Map([...module.matchState(weights)].map(([name, from]) => [from, name]));
    const measured = digested(weights, (from) => own.get(from)!);
    await module.loadFrom(digest ? measured : weights, { freeze, signal });
    return measured.digest();
  } finally {
    await source.close();
  }
}

function build(needed: NeededParts, sizes: readonly SizeChoice[]): Networks {
  const { vae, generator } = needed;
  return {
    sizes,
    autoencoder: new Autoencoder(vae.config),
    generator: generator && {
      tokenizer: generator.tokenizer,
      textEncoder: new T5Encoder(generator.text_encoder.config),
      transformer: new InfinityTransformer(generator.transformer.config),
    },
  };
}

function networksOf({ autoencoder, generator }: Networks): [NetworkName, Module][] {
  if (!generator) return [['vae', autoencoder]];
  return [
    ['text_encoder', generator.textEncoder],
    ['transformer', generator.transformer],
    ['vae', autoencoder],
  ];
}

/**
 * Builds the networks of a model, fills them and packs their weights.
 *
 * @throws InfinityError MODEL_NOT_FOUND, CHECKPOINT_INVALID, CHECKPOINT_CONFIG_MISMATCH, OUT_OF_MEMORY; the signal's reason
 */
export async function loadModel(parts: ModelParts, options: LoadModelOptions): Promise<Model> {
  const { device, signal, onProgress } = options;
  const needed = neededParts(parts);
  checkTogether(needed);
  const sizes = sizesOf(needed, parts.vaeSchedule);
  const model = placed({ device }, () => build(needed, sizes));
  // The visual tokenizer comes last: its digest is the one that stays.
  const networks = networksOf(model);
  let sha256 = '';
  try {
    for (const [i, [component, module]] of networks.entries()) {
      signal?.throwIfAborted();
      sha256 = await fill(module, parts[component]!, options, component === 'vae');
      onProgress?.({ component, done: i + 1, of: networks.length });
    }
    // Packing is work of the queue: who measures the first picture must not pay for it.
    await device.sync();
    signal?.throwIfAborted();
    return { ...model, tokenizer: { name: parts.name, sha256 } };
  } catch (error) {
    disposeModel(model);
    throw error;
  }
}

export function disposeModel(model: Networks): void {
  for (const [, module] of networksOf(model)) module.dispose();
}
