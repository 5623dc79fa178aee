/** Reproducible randomness: an input is a function of reader, seed and index alone. */

/** 32 bits out of a text and numbers (FNV-1a). */
function hash(...parts: readonly (string | number)[]): number {
  let h = 0x811c9dc5;
  for (const character of parts.join('|')) h = Math.imul(h ^ character.charCodeAt(0), 0x01000193);
  return h >>> 0;
}

export class Random {
  private state: number;

  constructor(...key: readonly (string | number)[]) {
    this.state = hash(...key);
  }

  /** An integer from 0 to `below` - 1 (mulberry32). */
  below(below: number): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let t = this.state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  }

  chance(share: number): boolean {
    return this.below(1000) < share * 1000;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }
}
