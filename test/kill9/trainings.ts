/** The two trainings that are killed: tiny models, a state after every step. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TrainingKind } from '../../lib/training/index.js';
import { tokenizerConfig, transformerConfig } from '../support/tiny_training.js';
import { finish, type Kill, killRepeatedly, leftBy } from './harness.js';

const KINDS = ['tokenizer', 'transformer'] as const satisfies readonly TrainingKind[];

/** What a tokenizer's training has to bring back besides: a second network with its optimizer, and the turns of the sizes. */
const TOKENIZER = {
  discriminator: { base_ch: 4, layers: 1, weight: 0.3, start: 3, lr_multiplier: 2, lecam: 0.05 },
  resolutions: [
    { size: 16, batch_size: 1 },
    { size: 8, batch_size: 2 },
  ],
};

/** What came of one training. */
export interface Outcome {
  readonly kind: TrainingKind;
  readonly kills: readonly Kill[];
  readonly killed: Readonly<Record<string, unknown>>;
  readonly unbroken: Readonly<Record<string, unknown>>;
}

/**
 * Runs both trainings once without a break and once with kills.
 * @param kills of each
 * @param root an empty folder
 */
export async function killTrainings(
  root: string,
  { kills, seed, onKill }: { kills: number; seed: number; onKill?: (kind: TrainingKind, kill: Kill) => void },
): Promise<Outcome[]> {
  await mkdir(root, { recursive: true });
  const outcomes: Outcome[] = [];
  // A life between two kills does up to three steps more than it repeats.
  const change = { iterations: 4 * kills + 2, save_every: 1 };
  const configs = {
    tokenizer: { ...tokenizerConfig, ...TOKENIZER, ...change },
    transformer: { ...transformerConfig, ...change },
  };
  for (const [i, kind] of KINDS.entries()) {
    const config = join(root, `${kind}.json`);
    await writeFile(config, JSON.stringify(configs[kind]));
    const out = (name: string): string => join(root, `${kind}-${name}`);
    const args = (directory: string): string[] => [
      ...['train', kind, '--config', config, '--out', directory, '--threads', '1', '--log-every', '1000'],
      ...(kind === 'transformer' ? ['--tokenizer', join(root, 'tokenizer-unbroken', 'checkpoint')] : []),
    ];
    await finish(args(out('unbroken')));
    const killed = out('killed');
    const done = await killRepeatedly(args(killed), killed, {
      kills,
      seed: seed + i,
      ...(onKill ? { onKill: (kill: Kill) => onKill(kind, kill) } : {}),
    });
    await finish(args(killed));
    outcomes.push({ kind, kills: done, killed: await leftBy(killed), unbroken: await leftBy(out('unbroken')) });
  }
  return outcomes;
}
