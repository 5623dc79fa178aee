/**
 * The transformer's configuration as its tensors tell it: official files hold no other. What tensors cannot tell (positions,
 * places of the level embedding, epsilon, heads without cosine attention) is as in the released models unless it is given.
 * Source of the names: Infinity, infinity/models/infinity.py, infinity/models/basic.py.
 */
import { InfinityError } from '../errors.js';
import type { Shape } from '../tensor.js';
import {
  ffnHidden,
  INFINITY_SIZES,
  type InfinityConfig,
  officialInfinityConfig,
  parseInfinityConfig,
} from './config.js';

/** A tensor that every transformer of this family has and nothing else: its name marks a state dict. */
export const TRANSFORMER_MARK = 'cfg_uncond';

/** Bits of a latent position of the tokenizers that the official entry points accept. */
const TOKENIZER_BITS = [8, 14, 16, 18, 20, 24, 32, 64, 128];

/** What is known beside the tensors. */
export interface InferInfinityOptions {
  /** Bits of a latent position of the tokenizer that belongs to the transformer. */
  readonly tokenizerBits?: number | undefined;
  /** Options that are given; each goes before what the tensors say, and the comparison with the tensors comes later. */
  readonly given?: Readonly<Record<string, unknown>> | undefined;
}

type Shapes = ReadonlyMap<string, Shape>;

function extent(shapes: Shapes, name: string, axis: number): number {
  const shape = shapes.get(name);
  const n = shape?.[axis];
  if (n !== undefined) return n;
  throw new InfinityError(
    'CHECKPOINT_INVALID',
    `Expected a tensor "${name}" with an axis ${axis} among the transformer's but found ${shape ? `[${shape.join(', ')}]` : 'none'}.`,
    { value: name, cure: 'Check that the file holds a whole Infinity transformer.' },
  );
}

/** Blocks and the groups that they are named by. */
function blocksOf(shapes: Shapes): { depth: number; block_chunks: number; first: string } {
  const names = new Set<string>();
  const chunks = new Set<string>();
  for (const name of shapes.keys()) {
    const match = /^(?:blocks\.\d+|(block_chunks\.\d+)\.module\.\d+)\./.exec(name);
    if (!match) continue;
    names.add(match[0]);
    if (match[1] !== undefined) chunks.add(match[1]);
  }
  const plain = shapes.has('blocks.0.ca.mat_q.weight');
  const first = plain ? 'blocks.0.' : 'block_chunks.0.module.0.';
  return { depth: names.size, block_chunks: plain ? 1 : chunks.size, first };
}

/** A ratio that gives the hidden width: the released one where it does. */
function mlpRatio(C: number, hidden: number, gated: boolean, released: number): number {
  if (!gated) return ffnHidden(C, released) === hidden ? released : hidden / C;
  // A gated layer is two thirds as wide as the plain one, both in multiples of 256.
  const wide = Math.round((1.5 * hidden) / 256) * 256;
  return ffnHidden(C, released) === wide ? released : wide / C;
}

/** Heads are visible in the gains of cosine attention only; else a published size of this width and depth tells them. */
function headsOf(shapes: Shapes, first: string, C: number, depth: number): number {
  const gains = shapes.get(`${first}sa.scale_mul_1H11`)?.[1];
  if (gains !== undefined) return gains;
  const published = INFINITY_SIZES.map((size) => officialInfinityConfig(size));
  const same = published.find((size) => size.embed_dim === C && size.depth === depth);
  return same?.num_heads ?? Math.max(1, Math.floor(C / 128));
}

/** D bits of a token are d of a tokenizer, or four times d: what the tokenizer says, else what a known tokenizer has. */
function patchify(D: number, tokenizerBits: number | undefined): boolean {
  if (tokenizerBits !== undefined) return D === 4 * tokenizerBits;
  return !TOKENIZER_BITS.includes(D) && TOKENIZER_BITS.includes(D / 4);
}

/**
 * @param shapes names and shapes of a state dict, prefixes removed
 * @throws InfinityError CHECKPOINT_INVALID where a tensor that decides is missing, or an option has no valid value
 */
export function inferInfinityConfig(
  shapes: Shapes,
  { tokenizerBits, given = {} }: InferInfinityOptions = {},
): InfinityConfig {
  const released = officialInfinityConfig('infinity_2b');
  const C = extent(shapes, 'pos_start', 2);
  const { depth, block_chunks, first } = blocksOf(shapes);
  const deep = shapes.has('head.0.weight');
  const D = extent(shapes, 'word_embed.weight', 1);
  const swiglu = shapes.has(`${first}ffn.fcg.weight`);
  const apply_spatial_patchify = Boolean(given.apply_spatial_patchify ?? patchify(D, tokenizerBits));
  const told = {
    embed_dim: C,
    depth,
    num_heads: headsOf(shapes, first, C, depth),
    mlp_ratio: mlpRatio(C, extent(shapes, `${first}ffn.fc1.weight`, 0), swiglu, released.mlp_ratio),
    block_chunks,
    text_channels: extent(shapes, TRANSFORMER_MARK, 1),
    text_maxlen: extent(shapes, TRANSFORMER_MARK, 0),
    vae_embed_dim: apply_spatial_patchify ? D / 4 : D,
    apply_spatial_patchify,
    shared_aln: shapes.has('shared_ada_lin.1.weight'),
    cos_attn: shapes.has(`${first}sa.scale_mul_1H11`),
    rms_norm: shapes.has(`${first}ca_norm.weight`) && !shapes.has(`${first}ca_norm.bias`),
    swiglu,
    nm0: shapes.has('norm0_ve.weight'),
    head_depth: deep ? 2 : 1,
    // The value is an initial one; that the gain is there is what counts.
    cross_attn_layer_scale: shapes.has(`${first}ca_gamma`) ? 1 : released.cross_attn_layer_scale,
  };
  return parseInfinityConfig({ ...released, ...told, ...given });
}

/** The published size that a configuration has, whatever its tokenizer. */
export function publishedSize(config: InfinityConfig): string | undefined {
  return INFINITY_SIZES.find((name) => {
    const size = officialInfinityConfig(name);
    return (['embed_dim', 'depth', 'num_heads', 'mlp_ratio', 'text_channels'] as const).every(
      (key) => size[key] === config[key],
    );
  });
}

/** Which options of the configuration decide a tensor, by its name without the block's. */
const OPTIONS: readonly (readonly [pattern: RegExp, options: string])[] = [
  [/^cfg_uncond$/, 'text_maxlen, text_channels'],
  [/^text_norm\.|^text_proj_for_ca\.0\.weight$|^text_proj_for_sos\.ca\.mat_/, 'text_channels, embed_dim'],
  [/^word_embed\.|^norm0_ve\./, 'vae_embed_dim, apply_spatial_patchify, nm0'],
  [/^head\.[02]\./, 'head_depth, head, vae_embed_dim, apply_spatial_patchify'],
  [/^head\./, 'head, vae_embed_dim, apply_spatial_patchify, head_depth'],
  [/^shared_ada_lin\.|ada_gss$|ada_lin\.1\./, 'shared_aln, embed_dim'],
  [/scale_mul_1H11$/, 'num_heads, cos_attn'],
  [/ca_gamma$/, 'cross_attn_layer_scale'],
  [/ffn\.fcg\./, 'swiglu'],
  [/ffn\./, 'mlp_ratio, swiglu, embed_dim'],
  [/ln_wo_grad\.|ca_norm\.bias$/, 'rms_norm'],
];

/** The options that decide tensor `name`. @param missing whether the weights lack it */
export function infinityOptionOf(name: string, missing: boolean, { depth, block_chunks }: InfinityConfig): string {
  const own = OPTIONS.find(([pattern]) => pattern.test(name))?.[1] ?? 'embed_dim';
  const block = /^(?:blocks\.(\d+)|block_chunks\.(\d+)\.module\.(\d+))\./.exec(name);
  if (!block) return own;
  if (missing) return `depth, block_chunks, ${own}`;
  const [, plain, chunk, index] = block;
  const known =
    plain === undefined
      ? block_chunks > 1 && Number(chunk) < block_chunks && Number(index) < depth / block_chunks
      : block_chunks === 1 && Number(plain) < depth;
  return known ? own : 'depth, block_chunks';
}
