/** What a checkpoint folder holds, from its configuration and the headers of its weight files: no weight is read. */
import { Checkpoint, COMPONENTS, type ComponentName, type Config } from '../io/checkpoint.js';
import { modelName } from './model_name.js';
import type { ModelName } from './settings.js';

export interface ComponentDescription {
  readonly config: Config;
  readonly tensors: number;
  readonly parameters: number;
  /** Parameters by stored type, such as { BF16: 4600000 }. */
  readonly dtypes: Readonly<Record<string, number>>;
}

export interface CheckpointDescription extends ModelName {
  readonly components: Readonly<Partial<Record<ComponentName, ComponentDescription>>>;
  readonly generationConfig: Config;
  readonly bytes: number;
}

async function describeComponent(checkpoint: Checkpoint, name: ComponentName): Promise<ComponentDescription> {
  const config = await checkpoint.config(name);
  const source = await checkpoint.weights(name);
  try {
    const dtypes: Record<string, number> = {};
    let parameters = 0;
    for (const { dtype, shape } of source.tensors.values()) {
      const size = shape.reduce((a, b) => a * b, 1);
      parameters += size;
      dtypes[dtype] = (dtypes[dtype] ?? 0) + size;
    }
    return { config, tensors: source.tensors.size, parameters, dtypes };
  } finally {
    await source.close();
  }
}

/**
 * Describes a checkpoint folder. File sizes are compared with the index, contents are not.
 *
 * @throws InfinityError MODEL_NOT_FOUND, CHECKPOINT_INVALID
 */
export async function describeCheckpoint(directory: string): Promise<CheckpointDescription> {
  const checkpoint = await Checkpoint.open(directory, { sizesOnly: true });
  const components: Partial<Record<ComponentName, ComponentDescription>> = {};
  for (const name of COMPONENTS) if (checkpoint.has(name)) components[name] = await describeComponent(checkpoint, name);
  const bytes = Object.values(checkpoint.index.files).reduce((sum, file) => sum + file.bytes, 0);
  return { ...modelName(checkpoint), components, generationConfig: await checkpoint.generationConfig(), bytes };
}
