/** The command line in this process, with what it wrote and its exit code. */

export interface Run {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command line in this process. Imported as the commands import each other, so that an error's class is one. */
export async function call(args: readonly string[]): Promise<Run> {
  const { runProgram } = await import('../../lib/cli/program.js');
  const written = { stdout: '', stderr: '' };
  const { stdout, stderr } = process;
  const originals = { stdout: stdout.write, stderr: stderr.write };
  const capture = (name: 'stdout' | 'stderr') =>
    ((chunk: string | Uint8Array, done?: unknown) => {
      written[name] += typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString('latin1');
      if (typeof done === 'function') done();
      return true;
    }) as typeof stdout.write;
  stdout.write = capture('stdout');
  stderr.write = capture('stderr');
  try {
    return { code: await runProgram(args), ...written };
  } finally {
    stdout.write = originals.stdout;
    stderr.write = originals.stderr;
  }
}
