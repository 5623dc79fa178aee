/** Which file of a folder holds the weights, by the names that the Hugging Face libraries and the official code use. */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { InfinityError } from '../errors.js';

/** In the order in which they are looked for. */
const NAMES: readonly RegExp[] = [
  /^model\.safetensors\.index\.json$/,
  /^model\.safetensors$/,
  /^pytorch_model\.bin\.index\.json$/,
  /^pytorch_model\.bin$/,
  /\.index\.json$/,
  /\.safetensors$/,
  /\.(pth|pt|bin)$/,
];

/** A file of weights, also without the index of a folder of shards. */
export function isWeightFile(path: string): boolean {
  return NAMES.slice(4).some((name) => name.test(path));
}

/**
 * The file to open: `path` itself, or what stands in the folder under a usual name.
 *
 * @throws InfinityError MODEL_NOT_FOUND when there is nothing, or several files of which none has a usual name
 */
export async function weightFile(path: string): Promise<string> {
  const stats = await stat(path).catch(() => undefined);
  if (!stats)
    throw new InfinityError('MODEL_NOT_FOUND', `There is no file or folder ${path}.`, {
      value: path,
      cure: 'Check the path, or download the file.',
    });
  if (!stats.isDirectory()) return path;
  const entries = (await readdir(path)).sort();
  for (const name of NAMES) {
    const [first, ...more] = entries.filter((entry) => name.test(entry));
    if (first !== undefined && more.length === 0) return join(path, first);
    if (first !== undefined)
      throw new InfinityError(
        'MODEL_NOT_FOUND',
        `Expected one file of weights in ${path} but found ${1 + more.length}: ${[first, ...more.slice(0, 3)].join(', ')}${more.length > 3 ? ', ...' : ''}.`,
        { value: path, cure: 'Name the file, or the index of the shards.' },
      );
  }
  throw new InfinityError('MODEL_NOT_FOUND', `There are no weights in ${path}.`, {
    value: path,
    cure: 'Expected model.safetensors, pytorch_model.bin, their .index.json, or one .safetensors, .pth, .pt or .bin file.',
  });
}
