/** The commands of `node-infinity` by name, and what their ends mean for the exit code. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command, CommanderError } from 'commander';
import { packageRoot } from '../native.js';
import { ExitCode, report } from './context.js';

const COMMANDS: Readonly<Record<string, () => Promise<Command>>> = {
  generate: async () => (await import('./generate.js')).generateCommand(),
  edit: async () => (await import('./edit.js')).editCommand(),
  vary: async () => (await import('./edit.js')).varyCommand(),
  encode: async () => (await import('./encode.js')).encodeCommand(),
  decode: async () => (await import('./encode.js')).decodeCommand(),
  reconstruct: async () => (await import('./reconstruct.js')).reconstructCommand(),
  train: async () => (await import('./train.js')).trainCommand(),
  report: async () => (await import('./report.js')).reportCommand(),
  eval: async () => (await import('./evaluate.js')).evalCommand(),
  bench: async () => (await import('./bench.js')).benchCommand(),
  convert: async () => (await import('./convert.js')).convertCommand(),
  inspect: async () => (await import('./inspect.js')).inspectCommand(),
  pull: async () => (await import('./pull.js')).pullCommand(),
  doctor: async () => (await import('./doctor.js')).doctorCommand(),
};

async function buildProgram(called: string | undefined): Promise<Command> {
  const { version } = JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as { version: string };
  const program = new Command('node-infinity')
    .description('Infinity: bitwise visual autoregressive text-to-image.')
    .version(version)
    .showHelpAfterError('(add --help for the options)');
  // Only the command that was called is loaded: it starts sooner, and works where the others' needs are missing.
  const names = called !== undefined && Object.hasOwn(COMMANDS, called) ? [called] : Object.keys(COMMANDS);
  for (const name of names) program.addCommand(await COMMANDS[name]!());
  // Usage errors become exit code 2 instead of commander's 1; help and version stay 0.
  for (const command of [program, ...program.commands.flatMap((c) => [c, ...c.commands])]) command.exitOverride();
  return program;
}

/**
 * Runs one command line.
 *
 * @param args without the program's name
 * @returns the exit code: 0, 1 for a failure, 2 for a wrong call, 130 when interrupted
 */
export async function runProgram(args: readonly string[]): Promise<number> {
  try {
    const program = await buildProgram(args[0]);
    await program.parseAsync([...args], { from: 'user' });
    return ExitCode.ok;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? ExitCode.ok : ExitCode.usage;
    return report(error);
  }
}
