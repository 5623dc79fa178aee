/**
 * The host's side of the one random generator, Philox-4x32-10: key = 64-bit seed, counter = (element / 4, scale, image,
 * stream), the same numbers as native/core/philox.h. Decisions that are taken in TypeScript (which scale is dropped, how
 * strong the noise is) draw here; masks and bits are drawn in the kernels.
 */
import { invalidArgument } from './errors.js';

/** The last word of the counter keeps the consumers apart: two of them never see the same number. */
export const RandomStream = {
  bitDraw: 0,
  bitFlip: 1,
  flipStrength: 2,
  dropScale: 3,
  dropText: 4,
  dropPath: 5,
  resolution: 6,
} as const;

/** Which number of a seed: each different counter gives an independent draw. */
export interface DrawCounter {
  readonly element?: number;
  readonly scale?: number;
  readonly image?: number;
  readonly stream: number;
}

/** The two words of a seed: an integer from 0 to 2^64 - 1 (a number up to 2^53 - 1). */
export function seedWords(seed: number | bigint): [lo: number, hi: number] {
  const valid = typeof seed === 'bigint' ? seed >= 0n && seed < 1n << 64n : Number.isSafeInteger(seed) && seed >= 0;
  if (!valid) invalidArgument('seed', 'an integer from 0 to 2^53 - 1, or a bigint below 2^64', seed);
  const wide = BigInt(seed);
  return [Number(wide & 0xffffffffn), Number(wide >> 32n)];
}

const high = (a: number, b: number): number => {
  const [al, ah, bl, bh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = ah * bl + ((al * bl) >>> 16);
  return ah * bh + Math.floor(middle / 0x10000) + (((middle & 0xffff) + al * bh) >>> 16);
};

/** One Philox block: four 32-bit words. */
export function philox4x32(seed: readonly [number, number], counter: readonly number[]): number[] {
  let [k0, k1] = [seed[0] >>> 0, seed[1] >>> 0];
  let [c0, c1, c2, c3] = counter.map((c) => c >>> 0) as [number, number, number, number];
  for (let round = 0; round < 10; round++) {
    const n0 = (high(0xcd9e8d57, c2) ^ c1 ^ k0) >>> 0;
    const n2 = (high(0xd2511f53, c0) ^ c3 ^ k1) >>> 0;
    c1 = Math.imul(0xcd9e8d57, c2) >>> 0;
    c3 = Math.imul(0xd2511f53, c0) >>> 0;
    [c0, c2] = [n0, n2];
    [k0, k1] = [(k0 + 0x9e3779b9) >>> 0, (k1 + 0xbb67ae85) >>> 0];
  }
  return [c0, c1, c2, c3];
}

/** A number in [0, 1) with 24 random bits. */
export function uniformDraw(seed: number | bigint, at: DrawCounter): number {
  const { element = 0, scale = 0, image = 0, stream } = at;
  return (philox4x32(seedWords(seed), [element >>> 2, scale, image, stream])[element & 3]! >>> 8) * 2 ** -24;
}
