/**
 * The self-describing checkpoint folder: configuration and weights of every component, the text tokenizer, default
 * settings, and an index with a digest of each file. Reading is lazy and verified, writing all or nothing.
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { InfinityError } from '../errors.js';
import {
  type FileRecord,
  INDEX_FILE,
  invalidCheckpoint,
  type ModelIndex,
  makeIndex,
  readIndex,
  readJsonObject,
  verifyFiles,
} from './model_index.js';
import { openTensors } from './open_tensors.js';
import { type Chunks, syncFolder, temporaryPath, writeError, writeOutput } from './output_file.js';
import { safetensorsChunks } from './safetensors.js';
import { INDEX_SUFFIX } from './sharded.js';
import type { LazyTensor, TensorData } from './tensor_data.js';
import { readAll, type TensorSource } from './tensor_source.js';

export const COMPONENTS = ['transformer', 'vae', 'text_encoder', 'trainer_state'] as const;
export type ComponentName = (typeof COMPONENTS)[number];

/** A JSON object; whoever reads it checks its fields. */
export type Config = Readonly<Record<string, unknown>>;

export interface Component {
  readonly config: Config;
  /** Official names. */
  readonly tensors: ReadonlyMap<string, TensorData>;
}

/** A component whose tensors may be read while they are written. */
export interface WritableComponent {
  readonly config: Config;
  readonly tensors: ReadonlyMap<string, TensorData | LazyTensor>;
}

export interface CheckpointContent<C extends WritableComponent = Component> {
  readonly components: Readonly<Partial<Record<ComponentName, C>>>;
  readonly generationConfig?: Config;
  /** The `tokenizer.json` of the text encoder. */
  readonly tokenizer?: object;
  /** Further text files by name, such as a model card. */
  readonly texts?: Readonly<Record<string, string>>;
}

const CONFIG_FILE = 'config.json';
const WEIGHTS_FILE = 'model.safetensors';
const GENERATION_FILE = 'generation_config.json';
const TOKENIZER_FILE = 'tokenizer/tokenizer.json';

export interface OpenOptions {
  /** Compare sizes only, not digests: for weights of many gigabytes that were verified before. Default false. */
  readonly sizesOnly?: boolean;
}

/** An opened checkpoint folder. Nothing stays open: every method opens what it needs. */
export class Checkpoint {
  private constructor(
    readonly directory: string,
    readonly index: ModelIndex,
  ) {}

  /**
   * Reads the index of a folder and verifies every file it lists.
   *
   * @throws InfinityError MODEL_NOT_FOUND when there is no checkpoint, CHECKPOINT_INVALID naming the offending file
   */
  static async open(directory: string, { sizesOnly = false }: OpenOptions = {}): Promise<Checkpoint> {
    const index = await readIndex(directory);
    await verifyFiles(directory, index, sizesOnly);
    return new Checkpoint(directory, index);
  }

  has(component: ComponentName): boolean {
    return `${component}/${CONFIG_FILE}` in this.index.files;
  }

  get hasTokenizer(): boolean {
    return TOKENIZER_FILE in this.index.files;
  }

  /** The configuration of a component. */
  async config(component: ComponentName): Promise<Config> {
    return readJsonObject(this.path(`${component}/${CONFIG_FILE}`));
  }

  /** The weights of a component, read on demand: one file or shards. Close them. */
  async weights(component: ComponentName): Promise<TensorSource> {
    const sharded = `${component}/model${INDEX_SUFFIX}`;
    return openTensors(this.path(sharded in this.index.files ? sharded : `${component}/${WEIGHTS_FILE}`));
  }

  /** Configuration and all weights of a component, in memory. */
  async component(name: ComponentName): Promise<Component> {
    const [config, source] = [await this.config(name), await this.weights(name)];
    try {
      return { config, tensors: await readAll(source) };
    } finally {
      await source.close();
    }
  }

  /** Default settings of generation; empty when the checkpoint has none. */
  async generationConfig(): Promise<Config> {
    return GENERATION_FILE in this.index.files ? readJsonObject(this.path(GENERATION_FILE)) : {};
  }

  /** Path of the text tokenizer's `tokenizer.json`. */
  get tokenizerPath(): string {
    return this.path(TOKENIZER_FILE);
  }

  /** A file that must be listed: what is not in the index was not verified. */
  private path(name: string): string {
    const path = join(this.directory, name);
    if (!(name in this.index.files))
      throw invalidCheckpoint(path, `is not part of this checkpoint (${this.index.components.join(', ')})`);
    return path;
  }
}

/** Passes chunks through and leaves size and digest in `record`. */
async function* measured(chunks: Chunks, done: (record: FileRecord) => void): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of chunks) {
    hash.update(chunk);
    bytes += chunk.byteLength;
    yield chunk;
  }
  done({ bytes, sha256: hash.digest('hex') });
}

function* filesOf(content: CheckpointContent<WritableComponent>): Generator<[name: string, chunks: Chunks]> {
  const json = (value: object) => [Buffer.from(`${JSON.stringify(value, null, 2)}\n`)];
  for (const name of COMPONENTS) {
    const component = content.components[name];
    if (!component) continue;
    yield [`${name}/${CONFIG_FILE}`, json(component.config)];
    yield [`${name}/${WEIGHTS_FILE}`, safetensorsChunks(component.tensors, { format: 'pt' })];
  }
  if (content.tokenizer) yield [TOKENIZER_FILE, json(content.tokenizer)];
  if (content.generationConfig) yield [GENERATION_FILE, json(content.generationConfig)];
  for (const [name, text] of Object.entries(content.texts ?? {})) yield [name, [Buffer.from(text)]];
}

async function writeContent(directory: string, content: CheckpointContent<WritableComponent>): Promise<void> {
  const files: Record<string, FileRecord> = {};
  for (const [name, chunks] of filesOf(content)) {
    await mkdir(dirname(join(directory, name)), { recursive: true });
    await writeOutput(
      join(directory, name),
      measured(chunks, (record) => {
        files[name] = record;
      }),
    );
  }
  const components: string[] = COMPONENTS.filter((name) => content.components[name]);
  if (content.tokenizer) components.push('tokenizer');
  const index = makeIndex(components, files);
  await writeOutput(join(directory, INDEX_FILE), [Buffer.from(`${JSON.stringify(index, null, 2)}\n`)]);
}

/** Whether a path is a checkpoint directory of this package. */
export async function isCheckpoint(path: string): Promise<boolean> {
  return (await stat(join(path, INDEX_FILE)).catch(() => undefined)) !== undefined;
}

/** True when there is a folder that may be replaced: an older checkpoint, or an empty one. */
async function replaceable(directory: string): Promise<boolean> {
  const stats = await stat(directory).catch(() => undefined);
  if (!stats) return false;
  const entries = stats.isDirectory() ? await readdir(directory) : undefined;
  if (entries && (entries.length === 0 || entries.includes(INDEX_FILE))) return true;
  throw new InfinityError(
    'INVALID_ARGUMENT',
    `Expected a new folder, an empty one or a checkpoint but ${directory} is something else.`,
    {
      value: directory,
      cure: 'Choose another folder; this one is left as it is.',
    },
  );
}

/**
 * Writes a checkpoint folder: into a temporary one beside it, which then takes its name. An older checkpoint stays until
 * the new one is complete; a crash between the two renames leaves it as `<directory>.previous`.
 *
 * @throws InfinityError INVALID_ARGUMENT when `directory` is no checkpoint, IO_ERROR, DISK_FULL
 */
export async function writeCheckpoint(directory: string, content: CheckpointContent<WritableComponent>): Promise<void> {
  const target = resolve(directory);
  const replace = await replaceable(target);
  const temporary = temporaryPath(target);
  const previous = `${target}.previous`;
  try {
    await mkdir(temporary, { recursive: true });
    await writeContent(temporary, content);
    if (replace) {
      await rm(previous, { recursive: true, force: true });
      await rename(target, previous);
    }
    await rename(temporary, target).catch(async (error) => {
      if (replace) await rename(previous, target);
      throw error;
    });
    await syncFolder(dirname(target));
    if (replace || (await isCheckpoint(previous))) await rm(previous, { recursive: true, force: true });
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    throw writeError(target, error);
  }
}
