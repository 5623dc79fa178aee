/** `inspect`: what a picture, its bits, a checkpoint or a file of weights says of itself, without loading weights. */
import { stat } from 'node:fs/promises';
import { Command } from 'commander';
import { InfinityError } from '../errors.js';
import { isCheckpoint } from '../io/checkpoint.js';
import { loadImage } from '../io/index.js';
import { isWeightFile } from '../io/weight_path.js';
import { describeCheckpoint, describeWeights } from '../pipeline/index.js';
import { BitTokens, isBitPath } from '../tokenizer/bit_file.js';
import { print } from './context.js';

async function inspect(path: string, flags: { json?: boolean }): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (!found)
    throw new InfinityError('IO_ERROR', `There is no file or directory ${path}.`, {
      value: path,
      cure: 'Check the path.',
    });
  const value = await describe(path, found.isDirectory());
  print(flags.json === true, value, () => JSON.stringify(value, null, 2));
}

async function describe(path: string, folder: boolean): Promise<object> {
  if (folder && (await isCheckpoint(path))) return describeCheckpoint(path);
  if (!folder && isBitPath(path)) return describeBits(path);
  return folder || isWeightFile(path) ? describeWeights(path) : describePicture(path);
}

async function describeBits(path: string): Promise<object> {
  const tokens = await BitTokens.fromFile(path);
  const { width, height, dim, schedule, scales, tokenizer, bitCount: bits, bitsPerPixel } = tokens;
  const grids = schedule.map(([, rows, columns]) => [rows, columns]);
  return { width, height, dim, grids, scales: scales.length, bits, bitsPerPixel, tokenizer };
}

async function describePicture(path: string): Promise<object> {
  const image = await loadImage(path);
  return { width: image.width, height: image.height, ...image.metadata };
}

export function inspectCommand(): Command {
  return new Command('inspect')
    .description('print what a picture was drawn from, or what a file of bits, a checkpoint or a file of weights holds')
    .argument(
      '<path>',
      'a picture or bits of this package, a checkpoint directory, or official weights: a file, an index, a folder',
    )
    .option('--json', 'one JSON line on stdout')
    .action(inspect);
}
