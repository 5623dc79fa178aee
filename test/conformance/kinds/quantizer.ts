/** The bitwise quantiser on one scale and over all scales. */

import { bsqQuantize } from '../../../lib/ops/quantize.js';
import { scope } from '../../../lib/tensor.js';
import { channelsFirst, channelsLast, download, reshaped, upload } from '../array.js';
import type { GoldenCase } from '../case.js';

/** One scale, evaluation mode: x [B, d, 1, h, w]. */
export async function bsqEdge(c: GoldenCase): Promise<void> {
  using x = upload(channelsLast(c.array('in.x')));
  const { codes, bits, z } = scope(() => bsqQuantize(x));
  c.give('out.quantized', channelsFirst(await download(codes)));
  c.give('out.bits', reshaped(await download(bits), bits.shape));
  for (const tensor of [codes, bits, z]) tensor.dispose();
}
