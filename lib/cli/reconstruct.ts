/** `reconstruct`: a picture through the tokenizer and back. */
import { Command } from 'commander';
import { formatOfPath, loadImage, STDOUT } from '../io/index.js';
import { InfinityPipeline } from '../pipeline/index.js';
import { interruptSignal, print } from './context.js';
import { addModelOptions, type ModelFlags, modelSource } from './model_options.js';

interface Flags extends ModelFlags {
  out: string;
  json?: boolean;
}

async function reconstruct(picture: string, flags: Flags): Promise<void> {
  const signal = interruptSignal();
  formatOfPath(flags.out);
  const image = await loadImage(picture);
  await using pipe = await InfinityPipeline.fromPretrained(await modelSource(flags), { signal });
  const { image: result, ...quality } = await pipe.reconstruct(image, { signal });
  await result.toFile(flags.out);
  if (flags.out === STDOUT) return;
  const { width, height } = result;
  const { psnr, ssim, bits, bitsPerPixel } = quality;
  const measured = `${psnr.toFixed(2)} dB  SSIM ${ssim.toFixed(4)}  ${bits} bits  ${bitsPerPixel.toFixed(3)} bits a pixel`;
  print(
    flags.json === true,
    { path: flags.out, width, height, ...quality },
    () => `${flags.out}  ${width}x${height}  ${measured}`,
  );
}

export function reconstructCommand(): Command {
  const command = new Command('reconstruct')
    .description('encode a picture into bits and decode it again')
    .argument('<picture>', 'a picture file; it is resized and cropped to the nearest size of the model')
    .option('-o, --out <file>', 'where the result goes', 'reconstruction.png');
  return addModelOptions(command).option('--json', 'one JSON line on stdout').action(reconstruct);
}
