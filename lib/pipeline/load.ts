/** From the parts of a model to networks that are ready to draw. */
import type { Device } from '../device.js';
import { digested, floatWeights } from '../io/weights.js';
import { type Module, placed, type WeightFormat } from '../nn/module.js';
import { T5Encoder } from '../text/t5.js';
import type { TextTokenizer } from '../text/tokenizer.js';
import { Autoencoder } from '../tokenizer/autoencoder.js';
import type { TokenizerName } from '../tokenizer/bit_file.js';
import { InfinityTransformer } from '../transformer/infinity.js';
import type { NetworkName } from '../weights/find_states.js';
import type { ModelParts, Part } from './model_parts.js';
import { checkTogether, type NeededParts, neededParts, sizesOf } from './needed_parts.js';
import { allResident, OneAtATime, type Residency } from './residency.js';
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
  /** One network in memory at a time. */
  readonly offload: boolean;
  /** Whether pictures are decoded in bands of rows. */
  readonly tile: Tiling;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
}

/** 'auto' where the activations of a whole picture would take much of the memory that is left. The picture is the same. */
export type Tiling = 'auto' | boolean;

/** What turns a prompt into bits. */
export interface Generator {
  readonly tokenizer: TextTokenizer;
  readonly textEncoder: T5Encoder;
  readonly transformer: InfinityTransformer;
}

export interface Networks {
  readonly sizes: readonly SizeChoice[];
  readonly autoencoder: Autoencoder;
  /** Absent where the checkpoint holds the visual tokenizer alone. */
  readonly generator: Generator | undefined;
}

export interface Model extends Networks {
  /** Stands in the bits that the autoencoder makes. */
  readonly tokenizer: TokenizerName;
  /** Whoever uses a network holds a lease of it. */
  readonly residency: Residency;
  readonly tile: Tiling;
}

/** Memory that loading leaves behind for later tensors; more than this goes back to the system. */
const KEPT_BYTES = 1 << 26;

/** Fills a network. @returns the digest of its weights where it is asked for */
async function fill(
  module: Module,
  part: Part<unknown>,
  { format: freeze, signal }: Pick<LoadModelOptions, 'format' | 'signal'>,
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

/** The text encoder runs once a prompt: it is not rounded. */
function build(needed: NeededParts, sizes: readonly SizeChoice[], activations: WeightFormat): Networks {
  const { vae, generator } = needed;
  const rounded = <T>(make: () => T): T => placed({ dtype: activations }, make);
  return {
    sizes,
    autoencoder: rounded(() => new Autoencoder(vae.config)),
    generator: generator && {
      tokenizer: generator.tokenizer,
      textEncoder: new T5Encoder(generator.text_encoder.config),
      transformer: rounded(() => new InfinityTransformer(generator.transformer.config)),
    },
  };
}

/** @throws InfinityError CHECKPOINT_CONFIG_MISMATCH, without reading a weight */
async function check(module: Module, part: Part<unknown>): Promise<void> {
  const source = await part.open();
  try {
    module.matchState(floatWeights(source, part.label));
  } finally {
    await source.close();
  }
}

/** In the order of their work; the visual tokenizer is last. */
export function networksOf({ autoencoder, generator }: Networks): [NetworkName, Module][] {
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
  const model = emptyModel(parts, device, device.kind === 'cuda' ? options.format : 'f32');
  // The visual tokenizer comes last: its digest is the one that stays.
  const networks = networksOf(model);
  const offloaded = Object.fromEntries(
    networks.map(([name, module]) => {
      const load = async (stop: AbortSignal): Promise<void> => {
        await fill(module, parts[name]!, { format: options.format, signal: stop }, false);
        await device.sync();
      };
      return [name, { module, load }];
    }),
  );
  let sha256 = '';
  try {
    for (const [i, [component, module]] of networks.entries()) {
      signal?.throwIfAborted();
      const part = parts[component]!;
      if (component !== 'vae' && options.offload) await check(module, part);
      else sha256 = await fill(module, part, options, component === 'vae');
      onProgress?.({ component, done: i + 1, of: networks.length });
    }
    // Packing is work of the queue: who measures the first picture must not pay for it.
    await device.sync();
    signal?.throwIfAborted();
    if (device.stats().cachedBytes > KEPT_BYTES) device.trim();
    const residency = options.offload ? new OneAtATime(device, offloaded, 'vae') : allResident;
    return { ...model, tokenizer: { name: parts.name, sha256 }, residency, tile: options.tile };
  } catch (error) {
    disposeModel(model);
    throw error;
  }
}

/**
 * The networks of a model before they have memory.
 * @param activations of transformer and decoder: f32, or bf16 on a card
 * @throws InfinityError MODEL_NOT_FOUND, CHECKPOINT_CONFIG_MISMATCH
 */
export function emptyModel(parts: ModelParts, device: Device, activations: WeightFormat = 'f32'): Networks {
  const needed = neededParts(parts);
  checkTogether(needed);
  return placed({ device }, () => build(needed, sizesOf(needed, parts.vaeSchedule), activations));
}

export function disposeModel(model: Networks): void {
  for (const [, module] of networksOf(model)) module.dispose();
}
