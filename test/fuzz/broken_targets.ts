/** Readers that no InfinityError saves: what the supervisor is there for. */
import type { FuzzTarget } from './target.js';

const seeds = () => [0, 1, 2].map((byte) => Uint8Array.of(byte));

export const targets: readonly FuzzTarget[] = [
  { name: 'crashing', seeds, read: ([byte]) => (byte === 1 ? process.exit(3) : undefined) },
  {
    name: 'hanging',
    seeds,
    read([byte]) {
      while (byte === 1);
    },
  },
];
