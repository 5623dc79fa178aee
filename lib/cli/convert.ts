/** `convert`: official files as a checkpoint directory. */
import { Command, Option } from 'commander';
import { invalidArgument } from '../errors.js';
import { type ConvertOptions, convertCheckpoint, describeCheckpoint } from '../pipeline/index.js';
import { interruptSignal, ProgressBar, print } from './context.js';
import { addModelOptions, type ModelFlags, modelSource } from './model_options.js';

interface Flags extends ModelFlags {
  out: string;
  dtype: NonNullable<ConvertOptions['dtype']>;
  json?: boolean;
}

const MEBIBYTE = 2 ** 20;

async function convert(flags: Flags): Promise<void> {
  const source = await modelSource(flags);
  if (source === undefined)
    invalidArgument(
      'what to convert',
      'at least one path',
      source,
      'Name --transformer, --vae, --text-encoder or --model.',
    );
  let bar: Promise<ProgressBar> | undefined;
  try {
    await convertCheckpoint(source, flags.out, {
      dtype: flags.dtype,
      signal: interruptSignal(),
      onProgress: ({ component, bytes, ofBytes }) => {
        bar ??= ProgressBar.start('convert, MiB', Math.ceil(ofBytes / MEBIBYTE));
        bar.then((started) => started.update(Math.ceil(bytes / MEBIBYTE), component));
      },
    });
  } finally {
    (await bar)?.stop();
  }
  const { components, bytes, sha256 } = await describeCheckpoint(flags.out);
  const value = { path: flags.out, components: Object.keys(components), bytes, sha256 };
  print(flags.json === true, value, () => `${flags.out}  ${value.components.join(', ')}  ${bytes} bytes`);
}

export function convertCommand(): Command {
  const command = new Command('convert')
    .description('write official files, together or one by one, as a checkpoint directory')
    .requiredOption('-o, --out <directory>', 'where the checkpoint goes: a new folder, or an older checkpoint');
  return addModelOptions(command, 'a checkpoint directory, to store its weights in another type')
    .addOption(new Option('--dtype <type>', 'how weights are stored').choices(['keep', 'f32', 'bf16']).default('keep'))
    .option('--json', 'one JSON line on stdout')
    .action(convert);
}
