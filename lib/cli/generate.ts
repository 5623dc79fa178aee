/** `generate`: prompts in, pictures out. */
import { extname } from 'node:path';
import { Command } from 'commander';
import { InfinityError } from '../errors.js';
import { formatOfPath, loadImage, STDOUT } from '../io/index.js';
import { type GenerateOptions, InfinityPipeline, type PictureSettings } from '../pipeline/index.js';
import { given, interruptSignal, numberOption, ProgressBar, perScaleOption, print } from './context.js';
import { addModelOptions, type ModelFlags, modelSource } from './model_options.js';

const DEFAULT_PROMPT = 'a red circle above a blue square';
const DEFAULT_OUTPUT = 'infinity.png';

interface Flags extends ModelFlags {
  out: string;
  from?: string;
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

/** A picture can only be repeated by the weights that drew it. */
function checkModel(recorded: PictureSettings | undefined, pipe: InfinityPipeline, chosen: boolean): void {
  if (!recorded || recorded.model.sha256 === pipe.info.sha256) return;
  const message = `The picture was drawn by model "${recorded.model.name}" (${recorded.model.sha256.slice(0, 12)}), not by "${pipe.info.name}".`;
  if (!chosen)
    throw new InfinityError('INVALID_ARGUMENT', message, {
      value: recorded.model,
      cure: 'Name that model, with --model or by its parts.',
    });
  process.stderr.write(`node-infinity: ${message} The result will differ.\n`);
}

async function generate(prompts: string[], flags: Flags): Promise<void> {
  const begin = performance.now();
  const signal = interruptSignal();
  const recorded = flags.from === undefined ? undefined : InfinityPipeline.settingsOf(await loadImage(flags.from));
  const texts = prompts.length > 0 ? prompts : [recorded?.prompt ?? DEFAULT_PROMPT];
  const paths = outputPaths(flags.out, texts.length * (flags.count ?? 1));
  const { seed, count, nearest, guidance, tau, topK, topP, threads } = flags;
  const size = flags.size === undefined ? undefined : parseSize(flags.size);
  const options: GenerateOptions = {
    ...recorded?.options,
    ...given({ seed, count, size, nearest, negativePrompt: flags.negative, guidance, tau, topK, topP }),
  };
  const source = await modelSource(flags);
  await using pipe = await InfinityPipeline.fromPretrained(source, { signal, threads });
  checkModel(recorded, pipe, source !== undefined);
  const bar = await ProgressBar.start('drawing', 1);
  try {
    const { images } = await pipe.generate(texts, {
      ...options,
      signal,
      onScale: ({ scale, of, group, groups }) => bar.update((group + (scale + 1) / of) / groups),
    });
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

export function generateCommand(): Command {
  const command = new Command('generate')
    .description('draw pictures of prompts')
    .argument('[prompts...]', `what to draw (default: "${DEFAULT_PROMPT}")`)
    .option('-o, --out <file>', 'png, jpeg, webp or avif by its extension; "-" is standard output', DEFAULT_OUTPUT);
  return addModelOptions(command)
    .option('--from <png>', 'repeat the prompt, seed and settings stored in a picture')
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
    .option('--json', 'one JSON line on stdout')
    .action(generate);
}
