/** `encode` and `decode`: a picture as a file of bits, and back. */
import { Command } from 'commander';
import { formatOfPath, loadImage, STDOUT } from '../io/index.js';
import { InfinityPipeline } from '../pipeline/index.js';
import { BitTokens, checkBitPath } from '../tokenizer/bit_file.js';
import { interruptSignal, numberOption, print } from './context.js';
import { addModelOptions, type ModelFlags, modelSource } from './model_options.js';

interface Flags extends ModelFlags {
  out: string;
  json?: boolean;
}

async function encode(picture: string, { out, json, ...flags }: Flags): Promise<void> {
  const signal = interruptSignal();
  checkBitPath(out);
  const image = await loadImage(picture);
  await using pipe = await InfinityPipeline.fromPretrained(await modelSource(flags), { signal });
  const tokens = await pipe.encode(image, { signal });
  await tokens.toFile(out);
  if (out === STDOUT) return;
  const { width, height, bitCount: bits, bitsPerPixel } = tokens;
  const value = {
    ...{ path: out, width, height, scales: tokens.scales.length, bits, bitsPerPixel },
    bytes: tokens.toBytes().length,
  };
  print(
    json === true,
    value,
    () => `${out}  ${width}x${height}  ${bits} bits  ${bitsPerPixel.toFixed(3)} bits a pixel  ${value.bytes} bytes`,
  );
}

async function decode(file: string, { out, json, scales, ...flags }: Flags & { scales?: number }): Promise<void> {
  const signal = interruptSignal();
  formatOfPath(out);
  const tokens = await BitTokens.fromFile(file);
  await using pipe = await InfinityPipeline.fromPretrained(await modelSource(flags), { signal });
  const image = await pipe.decode(tokens, { scales, signal });
  await image.toFile(out);
  if (out === STDOUT) return;
  const { width, height } = image;
  const value = { path: out, width, height, scales: scales ?? tokens.scales.length, of: tokens.schedule.length };
  print(json === true, value, () => `${out}  ${width}x${height}  ${value.scales} of ${value.of} scales`);
}

export function encodeCommand(): Command {
  const command = new Command('encode')
    .description('write the bits of a picture')
    .argument('<picture>', 'a picture file; it is resized and cropped to the nearest size of the model')
    .option('-o, --out <file>', 'where the bits go; "-" is standard output', 'picture.bits');
  return addModelOptions(command).option('--json', 'one JSON line on stdout').action(encode);
}

export function decodeCommand(): Command {
  const command = new Command('decode')
    .description('draw the picture of a file of bits')
    .argument('<bits>', 'a file that "encode" wrote; one that was cut off gives a coarser picture')
    .option('-o, --out <file>', 'png, jpeg, webp or avif by its extension; "-" is standard output', 'decoded.png')
    .option('--scales <integer>', 'decode the first scales alone', numberOption('--scales'));
  return addModelOptions(command, 'the checkpoint that encoded them (default: the embedded model)')
    .option('--json', 'one JSON line on stdout')
    .action(decode);
}
