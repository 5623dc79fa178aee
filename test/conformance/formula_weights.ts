/** Weights that a case gives by a formula instead of storing them: 16 bits of a hash of name, position and seed. */
import { elementCount } from '../../lib/io/tensor_data.js';
import type { HostTensor } from '../../lib/nn/module.js';
import { CaseError } from './case.js';

export interface FormulaTensor {
  readonly shape: readonly number[];
  readonly offset: number;
  readonly scale: number;
  /** Values to recognise a mistake in the formula by. */
  readonly first3?: readonly number[];
  readonly last?: number;
}

function fnv1a(name: string): number {
  let h = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(name)) h = Math.imul(h ^ byte, 0x01000193);
  return h;
}

function mix(h: number): number {
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** @throws CaseError when a value differs from the ones the case lists */
export function formulaWeights(
  tensors: Readonly<Record<string, FormulaTensor>>,
  seed: number,
): Map<string, HostTensor> {
  const start = mix(seed | 0);
  return new Map(
    Object.entries(tensors).map(([name, { shape, offset, scale, first3 = [], last }]) => {
      const t = fnv1a(name) ^ start;
      const data = new Float32Array(elementCount(shape));
      for (let i = 0; i < data.length; i++) {
        const u = mix((Math.imul(i + 1, 0x9e3779b9) + t) | 0) >>> 16;
        data[i] = offset + (scale * (u - 32768)) / 32768;
      }
      const differs = first3.some((value, i) => i < data.length && data[i] !== value);
      if (differs || (last !== undefined && data.at(-1) !== last))
        throw new CaseError(`the formula does not give ${name}`);
      return [name, { shape, data }];
    }),
  );
}
