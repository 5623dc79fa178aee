/**
 * A tokenizer trained with LFQ is exported as one of BSQ. Only signs of residuals decide bits, so dividing the features by √d turns
 * codes ±1 into ±1/√d without changing a bit; the decoder's first convolution takes the factor back.
 */
import type { Autoencoder } from '../tokenizer/autoencoder.js';

/** What the export multiplies a weight with. */
export function lfqExportFactor(name: string, d: number): number {
  if (/^encoder\.conv_out\./.test(name)) return 1 / Math.sqrt(d);
  return name === 'decoder.conv_in.conv.weight' ? Math.sqrt(d) : 1;
}

/** Undoes the export in place: the weights of a checkpoint become those that LFQ trains. */
export async function restoreLfq(autoencoder: Autoencoder): Promise<void> {
  const d = autoencoder.config.codebook_dim;
  for (const [name, weight] of autoencoder.namedParameters()) {
    const factor = lfqExportFactor(name, d);
    if (factor !== 1) weight.write(Float32Array.from(await weight.readFloats(), (v) => v / factor));
  }
}
