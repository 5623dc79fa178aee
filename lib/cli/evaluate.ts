/** `eval`: ShapesEval of a checkpoint. */
import { Command } from 'commander';
import { evaluateShapes } from '../eval/evaluate_shapes.js';
import { SHAPES_CATEGORIES } from '../eval/shapes/index.js';
import { InfinityPipeline } from '../pipeline/index.js';
import { interruptSignal, numberOption, ProgressBar, print } from './context.js';
import { addModelOptions, type ModelFlags, modelSource } from './model_options.js';

interface Flags extends ModelFlags {
  prompts: number;
  pictures: number;
  seed: number;
  ceiling?: boolean;
  guidance?: number;
  tau?: number;
  json?: boolean;
}

async function evaluate(flags: Flags): Promise<void> {
  const signal = interruptSignal();
  await using pipe = await InfinityPipeline.fromPretrained(await modelSource(flags), { signal });
  const { prompts, pictures, seed, guidance, tau, ceiling = false } = flags;
  const bar = await ProgressBar.start('judging', SHAPES_CATEGORIES.length * prompts * pictures);
  try {
    const { summary, table } = await evaluateShapes(pipe, {
      ...{ promptsPerCategory: prompts, picturesPerPrompt: pictures, seed, ceiling, signal, guidance, tau },
      onProgress: (done) => bar.update(done),
    });
    bar.stop();
    print(flags.json === true, summary, () => table);
  } finally {
    bar.stop();
  }
}

export function evalCommand(): Command {
  return addModelOptions(new Command('eval').description('score a checkpoint with ShapesEval'))
    .option('--prompts <integer>', 'prompts of each category', numberOption('--prompts'), 100)
    .option('--pictures <integer>', 'pictures of each prompt', numberOption('--pictures'), 4)
    .option('-s, --seed <integer>', 'seed of prompts and pictures', numberOption('--seed'), 1)
    .option('--ceiling', "score the tokenizer's reconstructions of perfect pictures instead of generated ones")
    .option('-g, --guidance <number>', "guidance (default: the checkpoint's)", numberOption('--guidance'))
    .option('--tau <number>', "temperature (default: the checkpoint's)", numberOption('--tau'))
    .option('--json', 'the scores as one JSON line, the last on stdout')
    .action(evaluate);
}
