/** From a checkpoint folder to networks that are ready to draw. */
import type { Device } from '../device.js';
import { describe, InfinityError } from '../errors.js';
import type { Checkpoint, ComponentName, Config } from '../io/checkpoint.js';
import { checkTensors, digested, floatWeights } from '../io/weights.js';
import { type Module, placed, type WeightFormat } from '../nn/module.js';
import { T5Encoder } from '../text/t5.js';
import { parseT5Config, type T5Config } from '../text/t5_config.js';
import { TextTokenizer } from '../text/tokenizer.js';
import { Autoencoder } from '../tokenizer/autoencoder.js';
import type { TokenizerName } from '../tokenizer/bit_file.js';
import { type AutoencoderConfig, parseAutoencoderConfig } from '../tokenizer/config.js';
import { type InfinityConfig, parseInfinityConfig } from '../transformer/config.js';
import { InfinityTransformer } from '../transformer/infinity.js';
import { modelName } from './describe_checkpoint.js';
import { checkpointSizes, type SizeChoice, tokenizerSize } from './sizes.js';

export interface LoadProgress {
  readonly component: ComponentName;
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

function mismatch(message: string, value: unknown): never {
  throw new InfinityError('CHECKPOINT_CONFIG_MISMATCH', message, {
    value,
    cure: 'Put together only components that were trained together.',
  });
}

interface Configs {
  readonly autoencoder: AutoencoderConfig;
  readonly sizes: readonly SizeChoice[];
  readonly generator: { readonly transformer: InfinityConfig; readonly text: T5Config } | undefined;
}

function generatorConfigs(config: Config, text: Config, autoencoder: AutoencoderConfig): Configs {
  const transformer = parseInfinityConfig(config);
  const t5 = parseT5Config(text);
  const {
    vae_embed_dim: bits,
    text_channels: channels,
    apply_spatial_patchify: patchify,
    scale_schedules,
  } = transformer;
  if (bits !== autoencoder.codebook_dim)
    mismatch(
      `The transformer predicts ${bits} bits a position but the tokenizer has ${autoencoder.codebook_dim}.`,
      bits,
    );
  if (t5.d_model !== channels)
    mismatch(`The text encoder is ${t5.d_model} wide but the transformer reads ${channels} channels.`, t5.d_model);
  const sizes = checkpointSizes(scale_schedules, autoencoder.patch_size * (patchify ? 2 : 1));
  return { autoencoder, sizes, generator: { transformer, text: t5 } };
}

/** Reads and checks the configuration of all components. */
async function readConfigs(checkpoint: Checkpoint): Promise<Configs> {
  const vae = await checkpoint.config('vae');
  const autoencoder = parseAutoencoderConfig(vae);
  if (checkpoint.has('transformer')) {
    const [transformer, text] = await Promise.all([
      checkpoint.config('transformer'),
      checkpoint.config('text_encoder'),
    ]);
    return generatorConfigs(transformer, text, autoencoder);
  }
  if (typeof vae.scale_schedule !== 'string')
    throw new InfinityError(
      'CHECKPOINT_INVALID',
      `Expected a scale_schedule in vae/config.json but received ${describe(vae.scale_schedule)}.`,
      { value: vae.scale_schedule, cure: 'Write the grids from coarse to fine, such as "1 2 4x2".' },
    );
  return { autoencoder, sizes: [tokenizerSize(vae.scale_schedule, autoencoder.patch_size)], generator: undefined };
}

/** @param digest takes the digest of the weights, where it is asked for */
async function fill(
  module: Module,
  checkpoint: Checkpoint,
  name: ComponentName,
  format: WeightFormat,
  digest?: (sha256: string) => void,
): Promise<void> {
  const source = await checkpoint.weights(name);
  try {
    checkTensors(source.tensors, module.stateShapes(), { name: `${name}/model.safetensors` });
    const weights = floatWeights(source);
    const measured = digest && digested(weights);
    await module.loadFrom(measured ?? weights, { freeze: format });
    if (measured) digest(measured.digest());
  } finally {
    await source.close();
  }
}

function build({ autoencoder, sizes, generator }: Configs, tokenizer: TextTokenizer | undefined): Networks {
  if (generator && tokenizer && tokenizer.vocabularySize > generator.text.vocab_size)
    mismatch(
      `The text tokenizer knows ${tokenizer.vocabularySize} tokens but the text encoder has ${generator.text.vocab_size}.`,
      tokenizer.vocabularySize,
    );
  return {
    sizes,
    autoencoder: new Autoencoder(autoencoder),
    generator: generator &&
      tokenizer && {
        tokenizer,
        textEncoder: new T5Encoder(generator.text),
        transformer: new InfinityTransformer(generator.transformer),
      },
  };
}

function networksOf({ autoencoder, generator }: Networks): [ComponentName, Module][] {
  if (!generator) return [['vae', autoencoder]];
  return [
    ['text_encoder', generator.textEncoder],
    ['transformer', generator.transformer],
    ['vae', autoencoder],
  ];
}

/**
 * Builds the networks of a checkpoint, fills them and packs their weights.
 *
 * @throws InfinityError CHECKPOINT_INVALID, CHECKPOINT_CONFIG_MISMATCH, OUT_OF_MEMORY; the signal's reason
 */
export async function loadModel(checkpoint: Checkpoint, options: LoadModelOptions): Promise<Model> {
  const { device, format, signal, onProgress } = options;
  const configs = await readConfigs(checkpoint);
  const tokenizer = configs.generator && (await TextTokenizer.fromFile(checkpoint.tokenizerPath));
  const model = placed({ device }, () => build(configs, tokenizer));
  const networks = networksOf(model);
  let sha256 = '';
  const digest = (found: string): void => {
    sha256 = found;
  };
  try {
    for (const [i, [component, module]] of networks.entries()) {
      signal?.throwIfAborted();
      await fill(module, checkpoint, component, format, component === 'vae' ? digest : undefined);
      onProgress?.({ component, done: i + 1, of: networks.length });
    }
    // Packing is work of the queue: who measures the first picture must not pay for it.
    await device.sync();
    signal?.throwIfAborted();
    return { ...model, tokenizer: { name: modelName(checkpoint).name, sha256 } };
  } catch (error) {
    disposeModel(model);
    throw error;
  }
}

export function disposeModel(model: Networks): void {
  for (const [, module] of networksOf(model)) module.dispose();
}
