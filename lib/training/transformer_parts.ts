/**
 * What a training of the transformer is made of: its networks with the weights that they start from, its text, its stages.
 */
import type { Batch } from '../data/batch.js';
import { findDataset } from '../data/dataset.js';
import type { FeatureStore } from '../data/feature_store.js';
import { FileDigests } from '../data/file_digests.js';
import type { Device } from '../device.js';
import { invalidArgument } from '../errors.js';
import type { BlobCache } from '../io/blob_cache.js';
import { Checkpoint, type Component } from '../io/checkpoint.js';
import { placed } from '../nn/module.js';
import type { Tensor } from '../tensor.js';
import { T5Encoder } from '../text/t5.js';
import { parseT5Config, type T5Config } from '../text/t5_config.js';
import { Autoencoder } from '../tokenizer/autoencoder.js';
import { parseAutoencoderConfig } from '../tokenizer/config.js';
import type { ScaleSchedule } from '../tokenizer/schedule.js';
import { InfinityTransformer } from '../transformer/infinity.js';
import { openCache } from './cache.js';
import { CaptionFeatures, captionStore } from './caption_features.js';
import { readPart } from './config.js';
import { loadComponent } from './export_checkpoint.js';
import { PictureFeatures, pictureStore } from './picture_features.js';
import { allSchedules, type LatentGeometry, type SizeSchedule, sizeSchedules } from './size_schedules.js';
import { planStages, type RunStage, type StageSettings } from './stages.js';
import { loadStart, type Start, startTransformer } from './start.js';
import { chooseTextTokenizer, type TextTokenizerChoice } from './text_tokenizer.js';
import { checkTransformerConfig, networkConfig, type TransformerTrainingConfig } from './transformer_config.js';

/** What a training has to do with. */
export interface Parts {
  readonly config: TransformerTrainingConfig;
  readonly stages: readonly TransformerStage[];
  readonly autoencoder: Autoencoder;
  readonly pictures: PictureFeatures;
  readonly captions: CaptionFeatures;
  readonly vae: Component;
  /** Part of the run's state: bits of another tokenizer mean nothing to this transformer. */
  readonly tokenizerDigest: string;
  readonly transformer: InfinityTransformer;
  readonly textEncoder: T5Encoder;
  readonly text: TextTokenizerChoice;
  /** The checkpoint that a frozen text encoder is from. */
  readonly frozenText: Checkpoint | undefined;
  /** What of the start was not used. */
  readonly notices: readonly string[];
  readonly device: Device;
}

/** A stage with the grids of its sizes. */
export interface TransformerStage extends RunStage {
  readonly config: TransformerTrainingConfig;
  readonly schedules: readonly SizeSchedule[];
}

/** Digests of the files of a component, which a resumed run must find again. */
export function digestOf({ index }: Checkpoint, component: 'vae' | 'text_encoder' | 'tokenizer'): string {
  const files = Object.entries(index.files).filter(([name]) => name.startsWith(`${component}/`));
  return files.map(([name, { sha256 }]) => `${name} ${sha256}`).join(', ');
}

/**
 * The text encoder of the start, where there is one that this training can go on with.
 * @throws InfinityError INVALID_ARGUMENT where it is to be frozen and there is none
 */
async function startText(
  { text_encoder: given }: TransformerTrainingConfig,
  init: Start | undefined,
): Promise<{ readonly checkpoint: Checkpoint; readonly frozen: T5Config | undefined } | undefined> {
  const checkpoint = init instanceof Checkpoint && init.has('text_encoder') ? init : undefined;
  if (given === 'frozen' && !checkpoint)
    invalidArgument('text_encoder', 'an object', given, 'Pass --init DIR: a checkpoint directory with a text encoder.');
  if (!checkpoint) return undefined;
  const own = parseT5Config(await checkpoint.config('text_encoder'));
  if (given === 'frozen') return { checkpoint, frozen: own };
  return own.d_model === given.d_model ? { checkpoint, frozen: undefined } : undefined;
}

async function stageOf(
  config: TransformerTrainingConfig & { readonly name?: string },
  latent: LatentGeometry,
  { digests, features }: { digests: FileDigests; features: FeatureStore | undefined },
): Promise<StageSettings & Pick<TransformerStage, 'config' | 'schedules'>> {
  const schedules = sizeSchedules(config.dataset, config.scale_schedules, latent);
  const found = await findDataset(config.dataset, 'transformer', digests);
  const source = found.listing && features ? { ...found, features } : found;
  return { config, source, schedules, ...(config.name === undefined ? {} : { name: config.name }) };
}

/** Where the features of captions are kept. Those of an encoder that is trained are old after a step. */
function textStore(cache: BlobCache, device: Device, frozen: Checkpoint, maxLength: number): FeatureStore {
  const [encoder, tokenizer] = [digestOf(frozen, 'text_encoder'), digestOf(frozen, 'tokenizer')];
  return captionStore(cache, device, { encoder, tokenizer, maxLength });
}

/** The grids of a batch. */
export function scheduleOf({ schedules }: TransformerStage, { size }: Batch): ScaleSchedule {
  return schedules.find((other) => other.size.every((n, i) => n === size[i]))!.schedule;
}

/** What stands before the names of the text encoder's parameters. */
export const TEXT_PREFIX = 'text_encoder.';

/** Parameters of the transformer under their own names, those of the text encoder below `text_encoder.`. */
export function* trained({
  transformer,
  textEncoder,
  frozenText,
}: Pick<Parts, 'transformer' | 'textEncoder' | 'frozenText'>): Generator<[string, Tensor]> {
  yield* transformer.namedParameters();
  if (!frozenText) yield* textEncoder.namedParameters(TEXT_PREFIX);
}

/**
 * Builds the networks and fills them.
 * @param tokenizer checkpoint with the trained visual tokenizer
 * @param init what transformer, text encoder and text tokenizer start from
 * @throws InfinityError INVALID_ARGUMENT, IO_ERROR, CHECKPOINT_INVALID, CHECKPOINT_CONFIG_MISMATCH
 */
export async function buildParts(
  json: unknown,
  { device, tokenizer, init }: { device: Device; tokenizer: Checkpoint; init?: Start | undefined },
): Promise<Parts> {
  const { config, stages: given, official } = checkTransformerConfig(json);
  const vae = await tokenizer.component('vae');
  const autoencoderConfig = parseAutoencoderConfig(vae.config);
  const patchify = Boolean(config.transformer.apply_spatial_patchify);
  const latent = { patchSize: autoencoderConfig.patch_size, patchify, grids: vae.config.scale_schedule };
  const cache = openCache(config);
  const digests = new FileDigests(cache);
  const features = cache && (await pictureStore(cache, device, digestOf(tokenizer, 'vae')));
  const found: Awaited<ReturnType<typeof stageOf>>[] = [];
  // One after the other: a set of pictures that several stages share is read once.
  for (const stage of given) found.push(await stageOf(stage, latent, { digests, features }));
  const known = await startText(config, init);
  const text = await chooseTextTokenizer(found[0]!.source, {
    limit: config.vocabulary_limit,
    init: known?.checkpoint,
  });
  const textConfig =
    known?.frozen ??
    readPart('text_encoder', () =>
      parseT5Config({ ...(config.text_encoder as object), vocab_size: text.tokenizer.vocabularySize }),
    );
  const notices: string[] = [];
  const parts = placed({ device }, (): Parts => {
    const network = networkConfig(config.transformer, {
      vae_embed_dim: autoencoderConfig.codebook_dim,
      text_channels: textConfig.d_model,
      // The official sizes are those of a network that lists none; its positions are stretched to the largest of them.
      ...(official ? {} : { scale_schedules: allSchedules(found.flatMap(({ schedules }) => schedules)) }),
    });
    const transformer = placed({ dtype: config.dtype ?? 'f32' }, () => new InfinityTransformer(network));
    const textEncoder = new T5Encoder(textConfig);
    const autoencoder = new Autoencoder(autoencoderConfig);
    const maxLength = network.text_maxlen;
    const frozenText = known?.frozen && known.checkpoint;
    const textFeatures = frozenText && cache && textStore(cache, device, frozenText, maxLength);
    const stages = found.map(({ source, ...stage }) => ({
      ...stage,
      source: textFeatures ? { ...source, textFeatures } : source,
    }));
    const keepsPictures = found.some(({ source }) => source.features);
    return {
      config,
      stages: planStages(stages),
      autoencoder,
      pictures: new PictureFeatures(autoencoder, device, keepsPictures ? cache : undefined),
      captions: new CaptionFeatures(text.tokenizer, textEncoder, maxLength, textFeatures && cache),
      vae,
      tokenizerDigest: digestOf(tokenizer, 'vae'),
      transformer,
      textEncoder,
      text,
      frozenText,
      notices,
      device,
    };
  });
  await loadComponent(parts.autoencoder, tokenizer, 'vae');
  parts.autoencoder.freeze('f32');
  parts.transformer.initialize(config.seed);
  if (init) notices.push(...(await startTransformer(parts.transformer, init)));
  if (known) await loadStart(parts.textEncoder, known.checkpoint, 'text_encoder');
  else parts.textEncoder.initialize(config.seed);
  if (init && !known) notices.push('the text encoder starts anew: the start has none of its width');
  if (known?.frozen) parts.textEncoder.freeze('f32');
  return parts;
}
