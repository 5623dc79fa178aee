/** `generate`: prompts in, pictures out. */
import { Command } from 'commander';
import { InfinityError } from '../errors.js';
import { loadImage } from '../io/index.js';
import { InfinityPipeline, type PictureSettings } from '../pipeline/index.js';
import { type DrawFlags, drawOptions, drawToFiles } from './draw_command.js';

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

async function generate(prompts: string[], flags: DrawFlags & { from?: string }): Promise<void> {
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
    .option('--from <png>', 'repeat the prompt, seed and settings stored in a picture');
  return drawOptions(command, DEFAULT_OUTPUT).action(generate);
}
