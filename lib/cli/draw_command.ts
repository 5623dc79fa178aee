/** What every command that draws shares: its options, the files it writes, what it tells. */
import { extname } from 'node:path';
import { type Command, Option } from 'commander';
import { InfinityError } from '../errors.js';
import { formatOfPath, STDOUT } from '../io/index.js';
import { type GenerateOptions, type GenerateResult, InfinityPipeline, type LoadOptions } from '../pipeline/index.js';
import { given, interruptSignal, numberOption, ProgressBar, perScaleOption, print } from './context.js';
import { addModelOptions, type ModelFlags, modelSource } from './model_options.js';

export interface DrawFlags extends ModelFlags {
  out: string;
  seed?: number;
  count?: number;
  size?: string;
  nearest?: boolean;
  negative?: string;
  guidance?: number | number[];
  tau?: number | number[];
  topK?: number;
  topP?: number;
  threads?: number;
  dtype?: 'f32' | 'bf16';
  offload?: boolean;
  tile?: boolean;
  json?: boolean;
}

/** "64" or "64x96" (height x width). */
function parseSize(text: string): [number, number] {
  const [h, w] = text.split('x').map(Number);
  const size: [number, number] = [h ?? Number.NaN, w ?? h ?? Number.NaN];
  if (!size.every((n) => Number.isInteger(n) && n > 0))
    throw new InfinityError('INVALID_ARGUMENT', `Expected pixels like 64 or 64x96 for --size but received "${text}".`, {
      value: text,
    });
  return size;
}

/** The options of a request that were given. */
export function requestOf(flags: DrawFlags): GenerateOptions {
  const { seed, count, nearest, guidance, tau, topK, topP, negative: negativePrompt } = flags;
  const size = flags.size === undefined ? undefined : parseSize(flags.size);
  return given({ seed, count, size, nearest, negativePrompt, guidance, tau, topK, topP });
}

/** How the model is loaded, where the flags say so. */
export function loadingOf({ threads, dtype, offload, tile }: DrawFlags): LoadOptions {
  return given({ threads, dtype, offload, tile });
}

/** out.png -> out-1.png, out-2.png, where there is more than one picture. */
function outputPaths(path: string, pictures: number): string[] {
  formatOfPath(path);
  if (pictures === 1) return [path];
  if (path === STDOUT)
    throw new InfinityError('INVALID_ARGUMENT', `Expected one picture for standard output but received ${pictures}.`, {
      value: pictures,
      cure: 'Give a file name with -o, or one prompt and --count 1.',
    });
  const extension = extname(path);
  const stem = path.slice(0, path.length - extension.length);
  return Array.from({ length: pictures }, (_, i) => `${stem}-${i + 1}${extension}`);
}

/**
 * Draws, shows how far it is, writes the pictures and tells of them.
 *
 * @param pictures how many there will be
 * @param draw is told whether the flags name a model
 */
export async function drawToFiles(
  flags: DrawFlags,
  pictures: number,
  draw: (pipe: InfinityPipeline, options: GenerateOptions, chosen: boolean) => Promise<GenerateResult>,
): Promise<void> {
  const begin = performance.now();
  const signal = interruptSignal();
  const paths = outputPaths(flags.out, pictures);
  const request = requestOf(flags);
  const source = await modelSource(flags);
  await using pipe = await InfinityPipeline.fromPretrained(source, { signal, ...loadingOf(flags) });
  const bar = await ProgressBar.start('drawing', 1);
  try {
    const onScale: GenerateOptions['onScale'] = ({ scale, of, group, groups }) =>
      bar.update((group + (scale + 1) / of) / groups);
    const { images } = await draw(pipe, { ...request, signal, onScale }, source !== undefined);
    for (const [i, image] of images.entries()) await image.toFile(paths[i]!);
    if (flags.out === STDOUT) return;
    const milliseconds = Math.round(performance.now() - begin);
    const results = images.map(({ metadata, seed, width, height }, i) => ({
      ...{ path: paths[i], prompt: metadata.prompt, seed, width, height },
    }));
    bar.stop();
    print(flags.json === true, { images: results, milliseconds }, () =>
      results.map((r) => `${r.path}  "${r.prompt}"  seed ${r.seed}  ${milliseconds} ms`).join('\n'),
    );
  } finally {
    bar.stop();
  }
}

/** Adds the options that every command that draws takes. */
export function drawOptions(command: Command, defaultOutput: string): Command {
  const output = 'png, jpeg, webp or avif by its extension; "-" is standard output';
  return addModelOptions(command.option('-o, --out <file>', output, defaultOutput))
    .option(
      '-s, --seed <integer>',
      'the same seed draws the same picture (default: drawn, and printed)',
      numberOption('--seed'),
    )
    .option('-n, --count <integer>', 'pictures for each prompt', numberOption('--count'))
    .option('--size <pixels>', 'height, or height x width')
    .option('--nearest', 'take the nearest size that the model has')
    .option('--negative <prompt>', 'what to steer away from')
    .option('-g, --guidance <number>', 'guidance, or one for each scale: 4,4,3,3', perScaleOption('--guidance'))
    .option('--tau <number>', 'temperature, or one for each scale', perScaleOption('--tau'))
    .option('--top-k <integer>', '1 takes the likelier bit always', numberOption('--top-k'))
    .option('--top-p <number>', 'drop the rarer bit where it is no likelier than 1 - top-p', numberOption('--top-p'))
    .option('--threads <integer>', 'threads of the CPU', numberOption('--threads'))
    .addOption(new Option('--dtype <type>', 'how weights are kept (default: f32)').choices(['f32', 'bf16']))
    .option('--offload', 'keep one network in memory at a time')
    .option('--tile', 'decode in bands of rows, with less memory (default: where memory is short)')
    .option('--json', 'one JSON line on stdout');
}
