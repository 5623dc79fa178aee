/** Uniform numbers of one training step on the host, a pure function of (seed, step): nothing to save for a resume. */
import { Draws } from '../nn/init.js';

export function stepDraws(seed: number, step: number, count: number, stream = 'scale'): number[] {
  const draws = new Draws(seed, `${stream}.${step}`);
  return Array.from({ length: count }, () => draws.uniform());
}
