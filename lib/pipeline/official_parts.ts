/** Models put together from files as they are published: which tensors are what, and the configuration that they tell. */
import { readFile, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { InfinityError, invalidArgument } from '../errors.js';
import { Checkpoint, type Config, isCheckpoint } from '../io/checkpoint.js';
import { resolveModelSource } from '../io/hub/index.js';
import { inferT5Config } from '../text/infer_config.js';
import { tokenizerFromSentencePiece } from '../text/sentencepiece.js';
import type { T5Config } from '../text/t5_config.js';
import { TextTokenizer } from '../text/tokenizer.js';
import type { AutoencoderConfig } from '../tokenizer/config.js';
import { inferAutoencoderConfig } from '../tokenizer/infer_config.js';
import { PIXEL_BUDGETS, pixelSize, templateSchedule } from '../tokenizer/schedule.js';
import type { InfinityConfig } from '../transformer/config.js';
import { inferInfinityConfig } from '../transformer/infer_config.js';
import { bringsTokenizer, type LocatedWeights, locateWeights } from '../weights/locate_weights.js';
import { fingerprint, type ModelParts, type Part } from './model_parts.js';
import { checkBoolean, invalidOption, refuseUnknown, type SamplingDefaults } from './options.js';
import { generationConfig, PRESET_NAMES, type PresetName, presetOf } from './presets.js';

/** Options that go before what files and tensors say. */
export interface ConfigOverrides {
  readonly transformer?: Partial<InfinityConfig> | undefined;
  readonly vae?: Partial<AutoencoderConfig> | undefined;
  readonly textEncoder?: Partial<T5Config> | undefined;
  /** Defaults of `generate`. */
  readonly generation?: Partial<SamplingDefaults> | undefined;
}

/**
 * Published files, each by its path: a file of weights (.pth, .safetensors, .bin), the index of a folder of shards, a folder that
 * holds one of these, a pulled repository `hf:organisation/repository`, or the directory of a checkpoint of which one component is taken.
 */
export interface PretrainedParts {
  /** Needed to draw. */
  readonly transformer?: string | undefined;
  /** The visual tokenizer. Left out, it is looked for in the transformer's file, where training checkpoints keep it. */
  readonly vae?: string | undefined;
  /** The T5 encoder: a Hugging Face folder with config.json, weights, and tokenizer.json or spiece.model. Needed to draw. */
  readonly textEncoder?: string | undefined;
  /** A tokenizer.json or spiece.model that does not stand beside the text encoder. */
  readonly textTokenizer?: string | undefined;
  /** Take the averaged weights, of the visual tokenizer where its file has any. Default false. */
  readonly ema?: boolean | undefined;
  /** Settings of generation; by default those of the released model that the tensors look like. */
  readonly preset?: PresetName | undefined;
  readonly config?: ConfigOverrides | undefined;
}

const PATHS = ['transformer', 'vae', 'textEncoder', 'textTokenizer'] as const;

/** @throws InfinityError INVALID_ARGUMENT */
function checkParts(parts: PretrainedParts): void {
  refuseUnknown(parts, [...PATHS, 'ema', 'preset', 'config'], 'the parts of a model');
  for (const name of PATHS) {
    const path = parts[name];
    if (path !== undefined && (typeof path !== 'string' || path === '')) invalidOption(name, 'a path', path);
  }
  if (PATHS.every((name) => parts[name] === undefined))
    invalidArgument('the parts of a model', 'at least one path', parts, `Name some of ${PATHS.join(', ')}.`);
  checkBoolean('ema', parts.ema ?? false);
  if (parts.preset !== undefined && !PRESET_NAMES.includes(parts.preset))
    invalidOption('preset', `one of ${PRESET_NAMES.join(', ')}`, parts.preset);
  refuseUnknown(parts.config ?? {}, ['transformer', 'vae', 'textEncoder', 'generation'], 'config');
  for (const [name, overrides] of Object.entries(parts.config ?? {}))
    if (typeof overrides !== 'object' || overrides === null) invalidOption(`config.${name}`, 'an object', overrides);
  const settings = ['guidance', 'tau', 'topK', 'topP', 'size'];
  refuseUnknown(parts.config?.generation ?? {}, settings, 'config.generation');
}

async function textTokenizer(path: string): Promise<TextTokenizer> {
  if (await isCheckpoint(path))
    return TextTokenizer.fromFile((await Checkpoint.open(path, { sizesOnly: true })).tokenizerPath);
  const folder = (await stat(path).catch(() => undefined))?.isDirectory();
  const candidates = folder ? ['tokenizer.json', 'spiece.model'].map((name) => join(path, name)) : [path];
  for (const file of candidates) {
    if (folder && !(await stat(file).catch(() => undefined))) continue;
    if (!file.endsWith('.model')) return TextTokenizer.fromFile(file);
    const bytes = await readFile(file).catch((cause) => {
      throw new InfinityError('MODEL_NOT_FOUND', `Cannot read the text tokenizer ${file}.`, {
        value: file,
        cure: 'Check the path.',
        cause,
      });
    });
    return new TextTokenizer(tokenizerFromSentencePiece(bytes));
  }
  throw new InfinityError('MODEL_NOT_FOUND', `There is no tokenizer.json and no spiece.model in ${path}.`, {
    value: path,
    cure: 'Download it into the folder of the text encoder, or name it as textTokenizer.',
  });
}

const part = <C>({ label, open }: LocatedWeights, config: C): Part<C> => ({ config, label, open });

/** Settings under the names of generation_config.json. */
function generationOf(
  parts: PretrainedParts,
  transformer: InfinityConfig | undefined,
  trainedOn: unknown,
  tokenPixels: number,
): Config {
  const preset = parts.preset ?? (transformer && presetOf(transformer, parts.transformer ?? ''));
  const pixels = PIXEL_BUDGETS.find((budget) => budget === trainedOn);
  const trained = pixels && !parts.preset ? { size: pixelSize(templateSchedule(1, pixels), tokenPixels) } : {};
  const { guidance, tau, topK: top_k, topP: top_p, size } = parts.config?.generation ?? {};
  const given = Object.entries({ guidance, tau, top_k, top_p, size }).filter(([, value]) => value !== undefined);
  return { ...(preset && generationConfig(preset, tokenPixels)), ...trained, ...Object.fromEntries(given) };
}

/**
 * Finds, names and configures the parts; no weight but the small ones of the digest is ever read here.
 *
 * @throws InfinityError INVALID_ARGUMENT, MODEL_NOT_FOUND, CHECKPOINT_INVALID, UNSAFE_PICKLE, CHECKPOINT_CONFIG_MISMATCH
 */
export async function officialParts(given: PretrainedParts): Promise<ModelParts> {
  checkParts(given);
  const parts = { ...given };
  for (const name of PATHS) if (parts[name] !== undefined) parts[name] = await resolveModelSource(parts[name]);
  const { ema = false, config = {} } = parts;
  const vaePath =
    parts.vae ?? (parts.transformer && (await bringsTokenizer(parts.transformer)) ? parts.transformer : undefined);
  const vae =
    vaePath === undefined
      ? undefined
      : await locateWeights(vaePath, 'vae', ema && parts.transformer ? 'preferred' : ema);
  const vaeConfig = vae && inferAutoencoderConfig(vae.shapes, { ...vae.said, ...config.vae });
  const transformer =
    parts.transformer === undefined ? undefined : await locateWeights(parts.transformer, 'transformer', ema);
  const transformerConfig =
    transformer &&
    inferInfinityConfig(transformer.shapes, {
      tokenizerBits: vaeConfig?.codebook_dim,
      given: { ...transformer.said, ...config.transformer },
    });
  const text =
    parts.textEncoder === undefined ? undefined : await locateWeights(parts.textEncoder, 'text_encoder', false);
  const tokenizerPath = parts.textTokenizer ?? parts.textEncoder;
  const tokenPixels = (vaeConfig?.patch_size ?? 16) * (transformerConfig?.apply_spatial_patchify ? 2 : 1);
  const name = basename(resolve(parts.transformer ?? vaePath ?? parts.textEncoder ?? parts.textTokenizer!));
  const found: ModelParts = {
    name: name.replace(/\.\w+$/, ''),
    vae: vae && part(vae, vaeConfig!),
    vaeSchedule: vae?.said.scale_schedule,
    transformer: transformer && part(transformer, transformerConfig!),
    text_encoder: text && part(text, inferT5Config(text.shapes, { ...text.said, ...config.textEncoder })),
    tokenizer: tokenizerPath === undefined ? undefined : await textTokenizer(tokenizerPath),
    generation: generationOf(parts, transformerConfig, transformer?.said.pn, tokenPixels),
    identify: async () => ({ name: found.name, sha256: await fingerprint(found) }),
  };
  return found;
}
