#!/usr/bin/env node
/** `node-infinity`: the process around a command. */
import { ExitCode } from './context.js';
import { runProgram } from './program.js';

// A reader that goes away, as "| head" does, is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(ExitCode.ok);
});

process.exitCode = await runProgram(process.argv.slice(2));
