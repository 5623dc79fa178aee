/** `pull`: a repository of a hub into the cache. */
import { Command } from 'commander';
import { type PullOptions, pull } from '../io/hub/index.js';
import { interruptSignal, ProgressBar, print } from './context.js';

interface Flags {
  include?: string[];
  cacheDir?: string;
  offline?: boolean;
  json?: boolean;
}

const MEBIBYTE = 2 ** 20;

async function pullRepository(source: string, { include, cacheDir, offline, json }: Flags): Promise<void> {
  let bar: Promise<ProgressBar> | undefined;
  const onProgress: PullOptions['onProgress'] = ({ file, bytes, of }) => {
    bar ??= ProgressBar.start('pull, MiB', Math.ceil(of / MEBIBYTE));
    bar.then((started) => started.update(Math.ceil(bytes / MEBIBYTE), file));
  };
  try {
    const result = await pull(source, {
      signal: interruptSignal(),
      onProgress,
      ...(include ? { include } : {}),
      ...(cacheDir === undefined ? {} : { cacheDirectory: cacheDir }),
      ...(offline ? { offline } : {}),
    });
    print(json === true, result, () => result.directory);
  } finally {
    (await bar)?.stop();
  }
}

export function pullCommand(): Command {
  return new Command('pull')
    .description('download a repository of a hub into the cache, and print its folder')
    .argument(
      '<source>',
      'hf:organisation/repository, with /path for a part of it, @revision for another one than main',
    )
    .option('--include <pattern...>', 'only these files: "*.safetensors", "vae/" (default: all)')
    .option('--cache-dir <directory>', 'root of the cache (default: HF_HUB_CACHE, or the usual place)')
    .option('--offline', 'use what is in the cache, ask no network')
    .option('--json', 'one JSON line on stdout')
    .action(pullRepository);
}
