/** VGG-16 and LPIPS heads of a few channels, by the names of the published files. */
import type { HostTensor } from '../../lib/nn/module.js';
import { randomArray } from './numeric.js';

export const WIDTHS = [4, 5, 6, 6, 7];

/** Numbers of the convolutions in torchvision's sequence. */
const CONVS = [
  [0, 2],
  [5, 7],
  [10, 12, 14],
  [17, 19, 21],
  [24, 26, 28],
];

/** All tensors of both files, with one of VGG's classifier, which nothing reads. */
export function smallVgg(seed: number): Map<string, HostTensor> {
  const tensors = new Map<string, HostTensor>();
  const add = (name: string, shape: readonly number[], scale: number, floor = 0): void => {
    const size = shape.reduce((a, b) => a * b);
    const values = randomArray(seed + tensors.size, size, scale).map((v) => (floor > 0 ? floor + Math.abs(v) : v));
    tensors.set(name, { shape, data: Float32Array.from(values) });
  };
  let inputs = 3;
  for (const [block, convs] of CONVS.entries()) {
    const width = WIDTHS[block]!;
    for (const at of convs) {
      add(`features.${at}.weight`, [width, inputs, 3, 3], Math.sqrt(6 / (9 * inputs)));
      add(`features.${at}.bias`, [width], 0.1, 0.05);
      inputs = width;
    }
    add(`lin${block}.model.1.weight`, [1, width, 1, 1], 0.5, 0.1);
  }
  add('classifier.0.weight', [2, 7], 1);
  return tensors;
}
