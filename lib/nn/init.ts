/** Initial values of parameters: drawn on the host, keyed by seed and name, so that they depend on nothing else. */
import { invalidArgument } from '../errors.js';

/** Fills `out` with the initial values of one parameter. */
export type Init = (out: Float32Array, draws: Draws) => void;

/** FNV-1a, 32 bits: turns a parameter's name into a key. */
function hashName(name: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) h = Math.imul(h ^ name.charCodeAt(i), 0x01000193);
  return h >>> 0;
}

/** The 32-bit finaliser of MurmurHash3: a bijection whose output bits each depend on all input bits. */
function mix(x: number): number {
  let h = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** A reproducible sequence of numbers for one parameter. */
export class Draws {
  private readonly key: number;
  private counter = 0;
  private spare: number | undefined;

  constructor(seed: number, name: string) {
    if (!Number.isSafeInteger(seed) || seed < 0) invalidArgument('seed', 'a non-negative safe integer', seed);
    this.key = mix(hashName(name) ^ mix(seed >>> 0) ^ mix(Math.floor(seed / 2 ** 32) + 0x9e3779b9));
  }

  private word(): number {
    const n = this.counter++;
    return mix(mix(n ^ this.key) + Math.imul(Math.floor(n / 2 ** 32) + 1, 0x9e3779b9) + this.key);
  }

  /** In [0, 1), 53 bits. */
  uniform(): number {
    return ((this.word() >>> 5) * 2 ** 26 + (this.word() >>> 6)) / 2 ** 53;
  }

  /** Standard normal (Box-Muller). */
  normal(): number {
    const kept = this.spare;
    if (kept !== undefined) {
      this.spare = undefined;
      return kept;
    }
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    const angle = 2 * Math.PI * this.uniform();
    this.spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }
}

/** Every element is `value`. */
export const constant =
  (value: number): Init =>
  (out) =>
    void out.fill(value);
export const zeros: Init = constant(0);
export const ones: Init = constant(1);

/** Normal around 0. */
export const normal =
  (std: number): Init =>
  (out, draws) => {
    for (let i = 0; i < out.length; i++) out[i] = draws.normal() * std;
  };

/** Uniform in [-bound, bound). */
export const uniform =
  (bound: number): Init =>
  (out, draws) => {
    for (let i = 0; i < out.length; i++) out[i] = (2 * draws.uniform() - 1) * bound;
  };

/** Normal, redrawn until |value| <= cut, then multiplied by `gain`. */
export const truncatedNormal =
  (std: number, { cut = 2, gain = 1 }: { cut?: number; gain?: number } = {}): Init =>
  (out, draws) => {
    for (let i = 0; i < out.length; i++) {
      let x = draws.normal() * std;
      while (Math.abs(x) > cut) x = draws.normal() * std;
      out[i] = x * gain;
    }
  };
