/** Files as the official code and the Hugging Face libraries lay them out, around networks of the smallest size. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { grammarVocabulary } from '../../lib/data/shapes/index.js';
import { writeSafetensors } from '../../lib/io/safetensors.js';
import { fromFloat32, type TensorData } from '../../lib/io/tensor_data.js';
import type { Module } from '../../lib/nn/module.js';
import { T5Encoder } from '../../lib/text/t5.js';
import { parseT5Config } from '../../lib/text/t5_config.js';
import { TextTokenizer } from '../../lib/text/tokenizer.js';
import { buildUnigramVocabulary } from '../../lib/text/vocabulary.js';
import { Autoencoder } from '../../lib/tokenizer/autoencoder.js';
import type { AutoencoderConfig } from '../../lib/tokenizer/config.js';
import { parseInfinityConfig } from '../../lib/transformer/config.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { randomArray } from './numeric.js';

export const TRANSFORMER = parseInfinityConfig({
  ...{ embed_dim: 32, depth: 2, num_heads: 2, block_chunks: 2, text_channels: 128, text_maxlen: 16, vae_embed_dim: 8 },
});
export const VAE: AutoencoderConfig = {
  ...{
    codebook_dim: 8,
    base_ch: 32,
    encoder_ch_mult: [1, 1],
    decoder_ch_mult: [1, 1],
    num_res_blocks: 1,
    patch_size: 2,
  },
};
const TOKENIZER = buildUnigramVocabulary(grammarVocabulary());
export const TEXT = parseT5Config({
  ...{ d_model: 128, d_kv: 16, num_heads: 2, d_ff: 64, num_layers: 1 },
  vocab_size: new TextTokenizer(TOKENIZER).vocabularySize,
});

type Tensors = Map<string, TensorData>;

/** A state dict with values that all differ from the initial ones. */
async function stateOf(module: Module, seed: number, dtype: 'F32' | 'BF16' = 'F32'): Promise<Tensors> {
  module.initialize(seed);
  try {
    const state = [...(await module.stateDict())];
    return new Map(
      state.map(([name, { shape, data }], i): [string, TensorData] => {
        const fixed = /zero_k_bias|scale_mul|norm\S*\.weight$/.test(name) || module instanceof Autoencoder;
        const values = fixed ? data : Float32Array.from(randomArray(seed * 1000 + i, data.length, 0.3));
        return [name, fromFloat32(values, shape, dtype)];
      }),
    );
  } finally {
    module.dispose();
  }
}

const below = (prefix: string, tensors: Tensors): Tensors =>
  new Map([...tensors].map(([name, t]) => [prefix + name, t]));
const mask: TensorData = { dtype: 'I64', shape: [8], data: new Uint8Array(64) };
const zeros = (...shape: number[]): TensorData =>
  fromFloat32(new Float32Array(shape.reduce((a, b) => a * b, 1)), shape);

export interface OfficialFiles {
  readonly folder: string;
  /** Bare state dict, bf16. */
  readonly transformer: string;
  /** Training checkpoint: trained and averaged weights, a tokenizer, the state of an optimizer. */
  readonly training: string;
  /** Tokenizer under `vae`, with masks and a perceptual network beside it. */
  readonly vae: string;
  /** The same without the segments of the wrapped layers, bare. */
  readonly vaeAlternative: string;
  /** Hugging Face folder with config.json and tokenizer.json; the weights hold a decoder as well. */
  readonly textEncoder: string;
  remove(): Promise<void>;
}

/** Writes all of them into a folder of their own. */
export async function officialFiles(): Promise<OfficialFiles> {
  const folder = await mkdtemp(join(tmpdir(), 'official-'));
  const path = (name: string): string => join(folder, name);
  const files = {
    transformer: path('tiny_reg.safetensors'),
    training: path('ar-ckpt.safetensors'),
    vae: path('tiny_vae.safetensors'),
    vaeAlternative: path('tiny_vae_alt.safetensors'),
    textEncoder: path('tiny-t5'),
  };
  const [trained, averaged] = [
    await stateOf(new InfinityTransformer(TRANSFORMER), 1),
    await stateOf(new InfinityTransformer(TRANSFORMER), 2),
  ];
  await writeSafetensors(files.transformer, await stateOf(new InfinityTransformer(TRANSFORMER), 1, 'BF16'));
  const vae = await stateOf(new Autoencoder(VAE), 3);
  const extras: Tensors = new Map([
    ['quantizer.lfq.mask', mask],
    ['quantize.lfq.mask', mask],
    ['perceptual_model.net.slice1.0.weight', zeros(2, 3)],
  ]);
  await writeSafetensors(
    files.vae,
    new Map([...below('vae.', vae), ...below('vae.', extras), ['opt_vae.step', zeros(1)]]),
  );
  const plain = [...vae].map(([name, t]): [string, TensorData] => [
    name.replace(/\.(conv|norm)\.(weight|bias)$/, '.$2'),
    t,
  ]);
  await writeSafetensors(files.vaeAlternative, new Map([...plain, ...extras]));
  await writeSafetensors(
    files.training,
    new Map([
      ...below('trainer.gpt_fsdp.', trained),
      ...below('trainer.gpt_ema_fsdp.', averaged),
      ...below('trainer.vae_local.', vae),
      ['trainer.gpt_fsdp_opt.state.cfg_uncond.exp_avg', zeros(16, 128)],
    ]),
  );
  await mkdir(files.textEncoder);
  const text = await stateOf(new T5Encoder(TEXT), 4);
  text.set('decoder.block.0.layer.0.SelfAttention.q.weight', zeros(32, 128)).set('lm_head.weight', zeros(4, 128));
  await writeSafetensors(join(files.textEncoder, 'model.safetensors'), text);
  const config = {
    model_type: 't5',
    architectures: ['T5ForConditionalGeneration'],
    feed_forward_proj: 'gated-gelu',
    ...TEXT,
  };
  await writeFile(join(files.textEncoder, 'config.json'), JSON.stringify(config));
  await writeFile(join(files.textEncoder, 'tokenizer.json'), JSON.stringify(TOKENIZER));
  return { folder, ...files, remove: () => rm(folder, { recursive: true, force: true }) };
}
