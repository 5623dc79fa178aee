/** A counter-based generator: every draw is a pure function of its key and its position, so a sample needs no history. */

/** Bijective 32-bit mixer: xor-shifts and odd multiplications, two rounds. */
function mix32(word: number): number {
  let x = word | 0;
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return (x ^ (x >>> 15)) >>> 0;
}

/** Hash of a list of non-negative integers up to 2^53 (each enters as its low and high word). */
export function hash32(...values: readonly number[]): number {
  let h = 0x9e3779b9;
  for (const value of values) {
    h = mix32(h ^ (value >>> 0)) + 0x9e3779b9;
    h = mix32(h ^ Math.floor(value / 2 ** 32)) + 0x9e3779b9;
  }
  return mix32(h);
}

/** Stream of draws keyed by integers, for example (set version, seed, index). */
export class CounterRandom {
  private readonly low: number;
  private readonly high: number;
  private counter = 0;

  constructor(...key: readonly number[]) {
    this.low = hash32(0, ...key);
    this.high = hash32(1, ...key);
  }

  /** Uniform in [0, 1) with 24 bits. */
  uniform(): number {
    const word = mix32(mix32(Math.imul(this.counter++, 0x9e3779b9) + this.low) ^ this.high);
    return (word >>> 8) * 2 ** -24;
  }

  /** Uniform in [low, high). */
  between(low: number, high: number): number {
    return low + (high - low) * this.uniform();
  }

  /** Uniform integer in [0, count). */
  below(count: number): number {
    return Math.floor(this.uniform() * count);
  }

  chance(probability: number): boolean {
    return this.uniform() < probability;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)];
  }

  /** One item, drawn in proportion to its weight. */
  pickWeighted<T extends { readonly weight: number }>(items: readonly T[]): T {
    let at = this.uniform() * items.reduce((sum, item) => sum + item.weight, 0);
    for (const item of items) {
      at -= item.weight;
      if (at < 0) return item;
    }
    return items[items.length - 1];
  }

  /** A new array in random order (Fisher-Yates). */
  shuffled<T>(items: readonly T[]): T[] {
    const out = [...items];
    for (let i = out.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [out[i], out[j]] = [out[j], out[i]];
    }
    return out;
  }
}
