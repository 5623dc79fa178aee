/** Tensors spread over several files, as listed by `*.safetensors.index.json` or `pytorch_model.bin.index.json`. */
import { basename, dirname, join } from 'node:path';
import { InfinityError } from '../errors.js';
import { openWith } from './byte_source.js';
import { parseJson } from './json.js';
import type { TensorData, TensorInfo } from './tensor_data.js';
import { noSuchTensor, type TensorSource } from './tensor_source.js';

/** The usual end of the name of the index beside the shards of one component. */
export const INDEX_SUFFIX = '.safetensors.index.json';

/** The limit that headers of safetensors files have too. */
const MAX_INDEX_BYTES = 100_000_000;

function invalidIndex(path: string, what: string): InfinityError {
  return new InfinityError('CHECKPOINT_INVALID', `${path} is not a valid shard index: ${what}.`, {
    value: path,
    cure: 'Download or write the file again.',
  });
}

/**
 * The file name that holds each tensor.
 * @throws InfinityError CHECKPOINT_INVALID, also for a shard outside the folder of the index
 */
export function parseShardIndex(bytes: Uint8Array, path = 'buffer'): Map<string, string> {
  const json = parseJson(new TextDecoder().decode(bytes), (what) => invalidIndex(path, `it ${what}`));
  const weightMap = (json as { weight_map?: unknown } | null)?.weight_map;
  if (typeof weightMap !== 'object' || weightMap === null) throw invalidIndex(path, 'it has no weight_map');
  const shards = new Map<string, string>();
  for (const [name, shard] of Object.entries(weightMap)) {
    // A bare name only: an index must not reach outside its own folder.
    if (typeof shard !== 'string' || basename(shard) !== shard || !/[^.]\.(safetensors|bin|pth|pt)$/.test(shard))
      throw invalidIndex(path, `"${name}" lies in ${JSON.stringify(shard)}`);
    shards.set(name, shard);
  }
  return shards;
}

class ShardedTensors implements TensorSource {
  readonly tensors = new Map<string, TensorInfo>();
  readonly metadata = {};
  private readonly homes = new Map<string, TensorSource>();
  private readonly shards = new Map<string, TensorSource>();

  constructor(
    private readonly path: string,
    private readonly openFile: (path: string) => Promise<TensorSource>,
  ) {}

  async add(name: string, shardName: string): Promise<void> {
    const path = join(dirname(this.path), shardName);
    let shard = this.shards.get(shardName);
    if (!shard) {
      shard = await this.openFile(path);
      this.shards.set(shardName, shard);
    }
    const info = shard.tensors.get(name);
    if (!info) throw noSuchTensor(name, path);
    this.tensors.set(name, info);
    this.homes.set(name, shard);
  }

  async read(name: string): Promise<TensorData> {
    const home = this.homes.get(name);
    if (!home) throw noSuchTensor(name, this.path);
    return home.read(name);
  }

  async close(): Promise<void> {
    await Promise.all([...this.shards.values()].map((shard) => shard.close()));
  }
}

/**
 * Opens every shard that an index lists.
 * @param openFile opens one shard
 */
export async function openSharded(
  path: string,
  openFile: (path: string) => Promise<TensorSource>,
): Promise<TensorSource> {
  const index = await openWith(path, async (file) => {
    if (file.size > MAX_INDEX_BYTES) throw invalidIndex(path, `it has ${file.size} bytes`);
    const shards = parseShardIndex(await file.read(0, file.size), path);
    await file.close();
    return shards;
  });
  const sharded = new ShardedTensors(path, openFile);
  try {
    for (const [name, shard] of index) await sharded.add(name, shard);
    return sharded;
  } catch (error) {
    await sharded.close();
    throw error;
  }
}
