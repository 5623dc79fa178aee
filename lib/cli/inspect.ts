/** `inspect`: what a picture or a checkpoint says of itself, without loading weights. */
import { stat } from 'node:fs/promises';
import { Command } from 'commander';
import { InfinityError } from '../errors.js';
import { loadImage } from '../io/index.js';
import { describeCheckpoint } from '../pipeline/index.js';
import { print } from './context.js';

async function inspect(path: string, flags: { json?: boolean }): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (!found)
    throw new InfinityError('IO_ERROR', `There is no file or directory ${path}.`, {
      value: path,
      cure: 'Check the path.',
    });
  const value = found.isDirectory() ? await describeCheckpoint(path) : await describePicture(path);
  print(flags.json === true, value, () => JSON.stringify(value, null, 2));
}

async function describePicture(path: string): Promise<object> {
  const image = await loadImage(path);
  return { width: image.width, height: image.height, ...image.metadata };
}

export function inspectCommand(): Command {
  return new Command('inspect')
    .description('print what a picture was drawn from, or what a checkpoint holds')
    .argument('<path>', 'a picture of this package, or a checkpoint directory')
    .option('--json', 'one JSON line on stdout')
    .action(inspect);
}
