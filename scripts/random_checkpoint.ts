/**
 * Checkpoints of any shape with random weights, which are made one tensor at a time while they are written. As a program it writes
 * one of a published size and draws with it, to see what it takes:
 *
 *     npx tsx scripts/random_checkpoint.ts write DIRECTORY [--size infinity_2b] [--bits 32]
 *     npx tsx scripts/random_checkpoint.ts draw DIRECTORY [--offload]
 */
import { parseArgs } from 'node:util';
import { grammarVocabulary } from '../lib/data/shapes/index.js';
import { InfinityPipeline } from '../lib/index.js';
import { type CheckpointContent, type Config, type WritableComponent, writeCheckpoint } from '../lib/io/checkpoint.js';
import { elementCount, type LazyTensor } from '../lib/io/tensor_data.js';
import type { Module } from '../lib/nn/module.js';
import { T5Encoder } from '../lib/text/t5.js';
import { parseT5Config, type T5Config } from '../lib/text/t5_config.js';
import { TextTokenizer } from '../lib/text/tokenizer.js';
import { buildUnigramVocabulary } from '../lib/text/vocabulary.js';
import { Autoencoder } from '../lib/tokenizer/autoencoder.js';
import { type AutoencoderConfig, officialAutoencoderConfig, parseAutoencoderConfig } from '../lib/tokenizer/config.js';
import {
  INFINITY_SIZES,
  type InfinityConfig,
  type InfinitySize,
  officialInfinityConfig,
  parseInfinityConfig,
} from '../lib/transformer/config.js';
import { InfinityTransformer } from '../lib/transformer/infinity.js';

export interface RandomCheckpointOptions {
  readonly transformer: Partial<InfinityConfig>;
  readonly vae: AutoencoderConfig;
  /** The vocabulary is that of the embedded model. */
  readonly textEncoder: Partial<T5Config>;
  readonly seed: number;
}

/** bf16 numbers of about this size, from a small generator: gigabytes are wanted in seconds. */
function randomBf16(count: number, scale: number, seed: number): Uint8Array {
  const values = new Uint16Array(count);
  const table = new Float32Array(1 << 12).map((_, i) => Math.sin(i * 12.9898 + 78.233) * scale * Math.SQRT2);
  const patterns = new Uint16Array(table.buffer).filter((_, i) => i % 2 === 1);
  let state = (seed + 1) * 2654435761;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    values[i] = patterns[state >>> 20]!;
  }
  return new Uint8Array(values.buffer);
}

/** Matrices keep the size of what passes through them; norms are the identity, nearly. */
function scaleOf(name: string, shape: readonly number[]): number {
  if (shape.length < 2) return 0.02;
  if (/cfg_uncond|lvl_embed|pos_start|shared\.weight/.test(name)) return 0.5;
  return 1 / Math.sqrt(elementCount(shape.slice(1)));
}

function component(module: Module, config: Config, seed: number): WritableComponent {
  const tensors = new Map<string, LazyTensor>();
  for (const [i, [name, shape]] of [...module.stateShapes()].entries()) {
    const isGain =
      /norm\d?\.(norm\.)?weight$|norm_out\.norm\.weight$|layer_norm\.weight$|text_norm\.weight$|ca_norm\.weight$/.test(
        name,
      );
    const load = async (): Promise<Uint8Array> => {
      const count = elementCount(shape);
      if (isGain) return new Uint8Array(new Uint16Array(count).fill(0x3f80).buffer);
      if (/zero_k_bias/.test(name)) return new Uint8Array(2 * count);
      return randomBf16(count, scaleOf(name, shape), seed + i);
    };
    tensors.set(name, { dtype: 'BF16', shape, load });
  }
  module.dispose();
  return { config, tensors };
}

/** What `writeCheckpoint` writes: transformer, visual tokenizer and text encoder with random bf16 weights. */
export function randomCheckpoint({
  transformer,
  vae,
  textEncoder,
  seed,
}: RandomCheckpointOptions): CheckpointContent<WritableComponent> {
  const tokenizer = buildUnigramVocabulary(grammarVocabulary());
  const text = parseT5Config({ ...textEncoder, vocab_size: new TextTokenizer(tokenizer).vocabularySize });
  const own = parseInfinityConfig(transformer);
  return {
    components: {
      transformer: component(new InfinityTransformer(own), { ...own }, seed),
      vae: component(new Autoencoder(parseAutoencoderConfig(vae)), { ...vae }, seed + 1),
      text_encoder: component(new T5Encoder(text), { ...text }, seed + 2),
    },
    generationConfig: { guidance: 3, tau: 1, top_k: 0, top_p: 0, ...(own.scale_schedules ? {} : { size: [256, 256] }) },
    tokenizer,
  };
}

/** A published transformer and tokenizer, with a text encoder of two layers in the width that the transformer reads. */
export function randomPublished(size: InfinitySize, bits: number): RandomCheckpointOptions {
  const transformer = officialInfinityConfig(size, { vae_embed_dim: bits });
  const d_model = transformer.text_channels;
  const textEncoder = { d_model, d_kv: 64, num_heads: 8, d_ff: 1024, num_layers: 2 };
  return { transformer, vae: officialAutoencoderConfig(bits), textEncoder, seed: 1 };
}

const gigabytes = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(2)} GiB`;

async function drawOnce(directory: string, offload: boolean): Promise<void> {
  const options = { dtype: 'bf16', offload } as const;
  const { peakBytes, multiplyAdds } = await InfinityPipeline.estimate(directory, options);
  console.log(`estimated: ${gigabytes(peakBytes)} of tensors, ${(multiplyAdds / 1e9).toFixed(0)} G multiply-adds`);
  const begin = performance.now();
  await using pipe = await InfinityPipeline.fromPretrained(directory, options);
  console.log(`loaded in ${((performance.now() - begin) / 1e3).toFixed(1)} s`);
  const { milliseconds } = await pipe.generate('a red circle above a blue square', { seed: 1 });
  const peak = process.resourceUsage().maxRSS * 1024;
  console.log(`drawn in ${(milliseconds / 1e3).toFixed(1)} s; peak memory of the process ${gigabytes(peak)}`);
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      size: { type: 'string', default: 'infinity_2b' },
      bits: { type: 'string', default: '32' },
      offload: { type: 'boolean' },
    },
  });
  const [command, directory] = positionals;
  const size = INFINITY_SIZES.find((name) => name === values.size);
  if (!directory || !size || !['write', 'draw'].includes(command ?? '')) {
    console.error(
      `Usage: tsx scripts/random_checkpoint.ts write|draw DIRECTORY [--size ${INFINITY_SIZES.join('|')}] [--bits N] [--offload]`,
    );
    process.exitCode = 2;
  } else if (command === 'write') {
    await writeCheckpoint(directory, randomCheckpoint(randomPublished(size, Number(values.bits))));
  } else {
    await drawOnce(directory, values.offload === true);
  }
}

if (process.argv[1]?.endsWith('random_checkpoint.ts')) await main();
