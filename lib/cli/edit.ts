/** `edit` and `vary`: pictures drawn from a picture. */
import { Command } from 'commander';
import { InfinityError } from '../errors.js';
import { loadImage } from '../io/index.js';
import type { Place } from '../pipeline/index.js';
import { numberOption } from './context.js';
import { type DrawFlags, drawOptions, drawToFiles } from './draw_command.js';

/** "8,8,48,48": top, left, height, width. */
function parsePlace(text: string): Place {
  const numbers = text.split(',').map(Number);
  const [top, left, height, width] = numbers;
  if (numbers.length !== 4 || !numbers.every((n) => Number.isInteger(n) && n >= 0))
    throw new InfinityError(
      'INVALID_ARGUMENT',
      `Expected top,left,height,width in pixels for --place but received "${text}".`,
      { value: text, cure: 'Write it as 8,8,48,48.' },
    );
  return { top: top!, left: left!, height: height!, width: width! };
}

async function edit(
  picture: string,
  prompt: string,
  flags: DrawFlags & { mask?: string; place?: string },
): Promise<void> {
  const place = flags.place === undefined ? undefined : parsePlace(flags.place);
  const image = await loadImage(picture);
  const mask = flags.mask === undefined ? undefined : await loadImage(flags.mask);
  await drawToFiles(flags, flags.count ?? 1, (pipe, options) => pipe.edit(image, mask, prompt, { ...options, place }));
}

async function vary(picture: string, flags: DrawFlags & { keepScales: number; prompt?: string }): Promise<void> {
  const { keepScales, prompt } = flags;
  const image = await loadImage(picture);
  await drawToFiles(flags, flags.count ?? 1, (pipe, options) => pipe.vary(image, { ...options, keepScales, prompt }));
}

export function editCommand(): Command {
  const command = new Command('edit')
    .description('draw a part of a picture anew, or extend it')
    .argument('<picture>', 'a picture file; it is resized and cropped to the nearest size of the model')
    .argument('<prompt>', 'what the whole picture shows afterwards')
    .option('--mask <file>', 'a picture of the same size, white where it is drawn anew')
    .option('--place <pixels>', 'top,left,height,width of the picture on a canvas of --size; all around it is drawn');
  return drawOptions(command, 'edited.png').action(edit);
}

export function varyCommand(): Command {
  const command = new Command('vary')
    .description('keep the first scales of a picture and draw the others')
    .argument('<picture>', 'a picture file; it is resized and cropped to the nearest size of the model')
    .requiredOption('-k, --keep-scales <integer>', 'how many scales stay', numberOption('--keep-scales'))
    .option('-p, --prompt <text>', 'what it shows (default: the prompt inside the picture)');
  return drawOptions(command, 'variation.png').action(vary);
}
