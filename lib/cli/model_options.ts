/** How commands are told which model to load: a checkpoint directory, or official files by their parts. */
import { readFile } from 'node:fs/promises';
import { type Command, Option } from 'commander';
import { InfinityError } from '../errors.js';
import type { ConfigOverrides, PresetName, PretrainedParts } from '../pipeline/index.js';
import { PRESET_NAMES } from '../pipeline/presets.js';

export interface ModelFlags {
  model?: string;
  transformer?: string;
  vae?: string;
  textEncoder?: string;
  textTokenizer?: string;
  ema?: boolean;
  preset?: PresetName;
  modelConfig?: string;
}

/** Adds the options that `modelSource` reads. */
export function addModelOptions(
  command: Command,
  model = 'a checkpoint directory (default: the embedded model)',
): Command {
  return command
    .option('-m, --model <directory>', model)
    .option('--transformer <path>', 'official weights: .pth, .safetensors, .bin, an index of shards, or their folder')
    .option('--vae <path>', 'official visual tokenizer, likewise')
    .option('--text-encoder <directory>', 'Hugging Face folder of the T5 encoder')
    .option('--text-tokenizer <file>', 'tokenizer.json or spiece.model (default: beside the text encoder)')
    .option('--ema', 'take the averaged weights of a training checkpoint')
    .addOption(
      new Option('--preset <name>', 'settings of a released model (default: by its shape)').choices(PRESET_NAMES),
    )
    .option(
      '--model-config <json>',
      'file of options that go first: {"transformer": {…}, "vae": {…}, "textEncoder": {…}}',
    );
}

async function readOverrides(path: string): Promise<ConfigOverrides> {
  const text = await readFile(path, 'utf8').catch((cause) => {
    throw new InfinityError('IO_ERROR', `Cannot read --model-config ${path}.`, {
      value: path,
      cure: 'Check the path.',
      cause,
    });
  });
  try {
    return JSON.parse(text) as ConfigOverrides;
  } catch {
    throw new InfinityError('INVALID_ARGUMENT', `Expected JSON for --model-config but ${path} is none.`, {
      value: path,
      cure: 'Write an object such as {"transformer": {"rope2d_normalized_by_hw": 1}}.',
    });
  }
}

/** What the flags name, for `fromPretrained`; undefined is the embedded model. @throws InfinityError INVALID_ARGUMENT */
export async function modelSource(flags: ModelFlags): Promise<string | PretrainedParts | undefined> {
  const { model, transformer, vae, textEncoder, textTokenizer, ema, preset, modelConfig } = flags;
  const config = modelConfig === undefined ? undefined : await readOverrides(modelConfig);
  const given = Object.entries({ transformer, vae, textEncoder, textTokenizer, ema, preset, config });
  const parts = Object.fromEntries(given.filter(([, value]) => value !== undefined));
  if (Object.keys(parts).length === 0) return model;
  if (model !== undefined)
    throw new InfinityError('INVALID_ARGUMENT', 'Expected either --model or the parts of one but received both.', {
      value: model,
      cure: 'Name the directory as --transformer, --vae and --text-encoder where its parts are wanted.',
    });
  return parts;
}
