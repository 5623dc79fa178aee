/** `doctor`: what this installation can do on this machine, and what it lacks. */
import { Command } from 'commander';
import { Device } from '../device.js';
import { InfinityError } from '../errors.js';
import { native } from '../native.js';
import { print } from './context.js';

/** The name of the card, or why there is none. */
function card(): string {
  try {
    const device = Device.create('cuda');
    const { backend } = device.stats();
    device.close();
    return backend;
  } catch (error) {
    if (error instanceof InfinityError) return `none: ${error.message}`;
    throw error;
  }
}

async function doctor(flags: { json?: boolean }): Promise<void> {
  const capabilities = native().capabilities();
  const device = Device.create();
  const { backend, threads, limitBytes } = device.stats();
  const pictures = await import('sharp').then(
    () => 'ok',
    (error: Error) => `missing: ${error.message.split('\n')[0]} Run "npm install sharp".`,
  );
  device.close();
  const value = {
    node: process.versions.node,
    platform: `${process.platform}-${process.arch}`,
    instructionSets: capabilities.isas,
    instructionSet: backend,
    threads,
    memoryLimit: limitBytes,
    cuda: card(),
    pictures,
  };
  print(flags.json === true, value, () =>
    Object.entries(value)
      .map(([key, v]) => `${key.padEnd(16)} ${Array.isArray(v) ? v.join(' ') : v}`)
      .join('\n'),
  );
}

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('print what this installation can do on this machine')
    .option('--json', 'one JSON line on stdout')
    .action(doctor);
}
