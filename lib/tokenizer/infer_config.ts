/**
 * The visual tokenizer's configuration as its tensors tell it: official files hold no other. Groups of the norms are the one
 * thing that tensors cannot tell; they follow the official rule unless they are given.
 * Source of the names: Infinity, infinity/models/bsq_vae/flux_vqgan.py.
 */
import { InfinityError } from '../errors.js';
import type { Shape } from '../tensor.js';
import { type AutoencoderConfig, parseAutoencoderConfig } from './config.js';

/** A tensor that every tokenizer of this family has, in both spellings: its name marks a state dict. */
export const AUTOENCODER_MARKS: readonly string[] = ['decoder.conv_in.conv.weight', 'decoder.conv_in.weight'];

type Shapes = ReadonlyMap<string, Shape>;

/** Extent of an axis of a convolution, whichever way its name is spelt. */
function extent(shapes: Shapes, layer: string, axis: number): number {
  const shape = shapes.get(`${layer}.conv.weight`) ?? shapes.get(`${layer}.weight`);
  const n = shape?.[axis];
  if (n !== undefined) return n;
  throw new InfinityError(
    'CHECKPOINT_INVALID',
    `Expected a convolution "${layer}" among the visual tokenizer's tensors but found ${shape ? `[${shape.join(', ')}]` : 'none'}.`,
    { value: layer, cure: 'Check that the file holds a whole visual tokenizer.' },
  );
}

/** How many of "prefix0", "prefix1", ... there are. */
function countOf(shapes: Shapes, prefix: string): number {
  const found = new Set<string>();
  for (const name of shapes.keys()) if (name.startsWith(prefix)) found.add(/^\d*/.exec(name.slice(prefix.length))![0]);
  return found.size;
}

/** Widths of the levels in multiples of the first convolution's. */
function multiples(shapes: Shapes, prefix: string, base: number): number[] {
  return Array.from(
    { length: countOf(shapes, prefix) },
    (_, level) => extent(shapes, `${prefix}${level}.block.0.conv1`, 0) / base,
  );
}

/** Levels that halve the picture. */
function halvings(shapes: Shapes): number {
  const levels = [...shapes.keys()].map((name) => /^encoder\.down\.(\d+)\.downsample\./.exec(name)?.[1]);
  return new Set(levels.filter((level) => level !== undefined)).size;
}

/**
 * @param shapes names and shapes of a state dict, prefixes removed
 * @param given options that are given; each goes before what the tensors say
 * @throws InfinityError CHECKPOINT_INVALID where a tensor that decides is missing, or an option has no valid value
 */
export function inferAutoencoderConfig(
  shapes: Shapes,
  given: Readonly<Record<string, unknown>> = {},
): AutoencoderConfig {
  const base_ch = extent(shapes, 'encoder.conv_in', 0);
  return parseAutoencoderConfig({
    codebook_dim: extent(shapes, 'encoder.conv_out', 0),
    base_ch,
    encoder_ch_mult: multiples(shapes, 'encoder.down.', base_ch),
    decoder_ch_mult: multiples(shapes, 'decoder.up.', base_ch),
    num_res_blocks: countOf(shapes, 'encoder.down.0.block.'),
    patch_size: 2 ** halvings(shapes),
    ...given,
  });
}

/** The options that decide tensor `name`. */
export function autoencoderOptionOf(name: string): string {
  if (/^encoder\.conv_out\.|^decoder\.conv_in\./.test(name)) return 'codebook_dim, base_ch';
  if (/sample\./.test(name)) return 'patch_size';
  if (/\.block\.\d+\./.test(name))
    return `num_res_blocks, base_ch, ${/^enc/.test(name) ? 'encoder' : 'decoder'}_ch_mult`;
  return `base_ch, ${/^enc/.test(name) ? 'encoder' : 'decoder'}_ch_mult`;
}
