/** The embedded model; all small tokenizers start from its visual tokenizer, so that a minute of training is enough. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Device } from '../../lib/device.js';
import { Checkpoint, type Component, writeCheckpoint } from '../../lib/io/checkpoint.js';
import { fromFloat32 } from '../../lib/io/tensor_data.js';
import { packageRoot } from '../../lib/native.js';
import { placed } from '../../lib/nn/module.js';
import { Autoencoder } from '../../lib/tokenizer/autoencoder.js';
import { type AutoencoderConfig, parseAutoencoderConfig } from '../../lib/tokenizer/config.js';
import { digest } from './store.js';
import type { Made, Workshop } from './workshop.js';

export const EMBEDDED_MODEL = join(packageRoot(), 'models', 'shapes');

/** The layers beside the quantiser, whose shapes follow from the bits. */
const BESIDE_QUANTIZER = /^(encoder\.conv_out|decoder\.conv_in)\./;

/** The tokenizer as it is, and a name of its weights. */
async function embedded(): Promise<{ vae: Component; id: string; config: AutoencoderConfig }> {
  const checkpoint = await Checkpoint.open(EMBEDDED_MODEL);
  const vae = await checkpoint.component('vae');
  const files = Object.entries(checkpoint.index.files).filter(([name]) => name.startsWith('vae/'));
  return { vae, id: digest(files), config: parseAutoencoderConfig(vae.config) };
}

/** A name of the weights of the whole embedded model. */
export function embeddedWeights(): string {
  const { files } = JSON.parse(readFileSync(join(EMBEDDED_MODEL, 'model_index.json'), 'utf8')) as {
    files: { [name: string]: unknown };
  };
  return digest(Object.entries(files).filter(([name]) => name !== 'generation_config.json'));
}

/** Its shapes with another number of bits. */
export async function embeddedShapes(bits: number): Promise<AutoencoderConfig> {
  return { ...(await embedded()).config, codebook_dim: bits };
}

/** Its weights with other scales. */
export async function embeddedTokenizer(workshop: Workshop, schedule: string): Promise<Made> {
  const { vae, id } = await embedded();
  const config = { ...vae.config, scale_schedule: schedule };
  return workshop.derived({ embedded: id, schedule }, (directory) =>
    writeCheckpoint(directory, { components: { vae: { config, tensors: vae.tensors } } }),
  );
}

/** Its weights for any number of bits: the layers beside the quantiser are drawn anew, for its own number as well. */
export async function startTokenizer(
  workshop: Workshop,
  device: Device,
  { bits, seed }: { bits: number; seed: number },
): Promise<Made> {
  const { vae, id, config: own } = await embedded();
  const config: AutoencoderConfig = { ...own, codebook_dim: bits };
  return workshop.derived({ embedded: id, bits, seed }, async (directory) => {
    const network = placed({ device }, () => new Autoencoder(config));
    const drawn = await network.initialize(seed).stateDict();
    network.dispose();
    const tensors = new Map(
      [...drawn].map(([name, { shape, data }]) => [
        name,
        BESIDE_QUANTIZER.test(name) ? fromFloat32(data, shape) : vae.tensors.get(name)!,
      ]),
    );
    await writeCheckpoint(directory, { components: { vae: { config: { ...config }, tensors } } });
  });
}
