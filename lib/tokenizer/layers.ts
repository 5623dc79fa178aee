/** Layers of encoder and decoder in their order. */
import type { Tap } from '../nn/module.js';
import type { Measured } from '../ops/conv.js';
import { recorder } from '../ops/record.js';
import { scope, type Tensor } from '../tensor.js';
import { type Layer, type Normalize, type PassOptions, ResnetBlock, recomputed } from './blocks.js';

/** Each under its official name. */
export type Layers = readonly (readonly [name: string, layer: Layer])[];

/**
 * The picture after all layers, measured where convolutions do so for the norms that follow them.
 * @param last the norm that the result meets
 * @param tap told the result of every layer
 */
export function throughLayers(
  layers: Layers,
  x_BHWC: Tensor,
  last: Normalize,
  tap?: Tap,
  { checkpointing = false }: PassOptions = {},
): Measured {
  // At a megapixel, what waits for the end of the scope is gigabytes. A tape or an observer may hold it, though.
  const early = !tap && !recorder();
  let h_BHWC: Measured = { picture: x_BHWC };
  for (const [i, [name, layer]] of layers.entries()) {
    const before = h_BHWC;
    const next = i + 1 < layers.length ? layers[i + 1]![1].enters : last;
    const again = checkpointing && layer instanceof ResnetBlock;
    h_BHWC = scope(() => (again ? { picture: recomputed(layer, before.picture) } : layer.measured(before, next)));
    tap?.(name, h_BHWC.picture);
    if (early && i > 0) before.picture.dispose();
  }
  return h_BHWC;
}
