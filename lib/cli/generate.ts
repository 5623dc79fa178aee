/** `generate`: prompts in, pictures out. */
import { Command } from 'commander';
import { InfinityError } from '../errors.js';
import { loadImage } from '../io/index.js';
import { InfinityPipeline, type PictureSettings } from '../pipeline/index.js';
import { given, print } from './context.js';
import { type DrawFlags, drawOptions, drawToFiles, loadingOf, requestOf } from './draw_command.js';
import { modelSource } from './model_options.js';

const DEFAULT_PROMPT = 'a red circle above a blue square';
const DEFAULT_OUTPUT = 'infinity.png';

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

const mebibytes = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20)} MiB`;

/** Tells what the call would take. */
async function tellEstimate(prompts: readonly string[], flags: DrawFlags): Promise<void> {
  const { size, count = 1, nearest, guidance, negativePrompt } = requestOf(flags);
  const request = given({ size, nearest, guidance, negativePrompt, prompt: prompts[0], ...loadingOf(flags) });
  const source = await modelSource(flags);
  const told = await InfinityPipeline.estimate(source, { ...request, count: count * Math.max(1, prompts.length) });
  const line = (name: string, weights: number, activations: number, peak: number, madds: number): string =>
    [
      name.padEnd(13),
      ...[weights, activations, peak].map((n) => mebibytes(n).padStart(12)),
      `${(madds / 1e9).toFixed(1).padStart(12)} G`,
    ].join('');
  print(flags.json === true, told, () =>
    [
      `${''.padEnd(13)}     weights activations        peak multiply-adds`,
      ...told.stages.map((s) => line(s.stage, s.weightBytes, s.activationBytes, s.peakBytes, s.multiplyAdds)),
      line(
        'all',
        told.weightBytes,
        Math.max(...told.stages.map((s) => s.activationBytes)),
        told.peakBytes,
        told.multiplyAdds,
      ),
      `keys and values ${mebibytes(told.cacheBytes)}, peak while loading ${mebibytes(told.loadBytes)}`,
    ].join('\n'),
  );
}

async function generate(prompts: string[], flags: DrawFlags & { from?: string; estimate?: boolean }): Promise<void> {
  if (flags.estimate) return tellEstimate(prompts, flags);
  const recorded = flags.from === undefined ? undefined : InfinityPipeline.settingsOf(await loadImage(flags.from));
  const texts = prompts.length > 0 ? prompts : [recorded?.prompt ?? DEFAULT_PROMPT];
  await drawToFiles(flags, texts.length * (flags.count ?? 1), (pipe, options, chosen) => {
    checkModel(recorded, pipe, chosen);
    return pipe.generate(texts, { ...recorded?.options, ...options });
  });
}

export function generateCommand(): Command {
  const command = new Command('generate')
    .description('draw pictures of prompts')
    .argument('[prompts...]', `what to draw (default: "${DEFAULT_PROMPT}")`)
    .option('--estimate', 'only tell memory and arithmetic of the call, from configurations and headers')
    .option('--from <png>', 'repeat the prompt, seed and settings stored in a picture');
  return drawOptions(command, DEFAULT_OUTPUT).action(generate);
}
