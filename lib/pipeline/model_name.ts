/** The name under which pictures remember a checkpoint directory. */
import { createHash } from 'node:crypto';
import { basename, resolve } from 'node:path';
import type { Checkpoint } from '../io/checkpoint.js';
import { repositoryOf } from '../io/hub/index.js';
import type { ModelIndex } from '../io/model_index.js';
import type { ModelName } from './settings.js';

/** Name and digest of a checkpoint. Its card and its default settings may change without changing the digest. */
export function modelName({ directory, index }: Pick<Checkpoint, 'directory' | 'index'>): ModelName {
  return { name: repositoryOf(directory) ?? basename(resolve(directory)), sha256: digestOf(index) };
}

function digestOf({ files }: ModelIndex): string {
  const names = Object.keys(files).filter((name) => name.includes('/') && !name.startsWith('trainer_state/'));
  const lines = names.sort().map((name) => `${files[name]!.sha256}  ${name}\n`);
  return createHash('sha256').update(lines.join('')).digest('hex');
}
