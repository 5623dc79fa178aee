import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { appendFile, mkdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { InfinityError, type InfinityErrorCode } from '../../lib/errors.js';
import {
  BitTokens,
  type GenerateOptions,
  Image,
  InfinityPipeline,
  type LoadOptions,
  loadImage,
} from '../../lib/index.js';
import type { CheckpointContent, ComponentName } from '../../lib/io/checkpoint.js';
import type { TensorData } from '../../lib/io/tensor_data.js';
import { TINY_TOKENS, tinyCheckpoint } from '../support/tiny_checkpoint.js';

/** An InfinityError with this code, a message that fits, the offending value and a cure. */
const fails = (code: InfinityErrorCode, message: RegExp, value?: unknown) => (error: unknown) => {
  assert.ok(error instanceof InfinityError, String(error));
  assert.equal(error.code, code);
  assert.match(error.message, message);
  if (value !== undefined) assert.deepEqual(error.value, value);
  assert.ok(error.cure && error.message.includes(error.cure), 'no cure');
  return true;
};

/** The content with one component's tensors or config changed. */
const changed =
  (
    name: ComponentName,
    change: (parts: { config: Record<string, unknown>; tensors: Map<string, TensorData> }) => void,
  ) =>
  (content: CheckpointContent): CheckpointContent => {
    const { config, tensors } = content.components[name]!;
    const parts = { config: { ...config }, tensors: new Map(tensors) };
    change(parts);
    return { ...content, components: { ...content.components, [name]: parts } };
  };

async function loading(change: (content: CheckpointContent) => CheckpointContent): Promise<InfinityPipeline> {
  const broken = await tinyCheckpoint(change);
  try {
    return await InfinityPipeline.fromPretrained(broken.directory);
  } finally {
    await broken.remove();
  }
}

describe('bad input', () => {
  let tiny: Awaited<ReturnType<typeof tinyCheckpoint>>;
  let pipe: InfinityPipeline;
  before(async () => {
    tiny = await tinyCheckpoint();
    pipe = await InfinityPipeline.fromPretrained(tiny.directory);
  });
  after(async () => {
    await pipe?.dispose();
    await tiny?.remove();
  });

  describe('of generate and stream', () => {
    const refused = (check: (error: unknown) => boolean, options: object, prompt: unknown = 'a star') =>
      Promise.all([
        assert.rejects(pipe.generate(prompt as string, options as GenerateOptions), check),
        assert.rejects(pipe.stream(prompt as string, options).next(), check),
      ]);

    it('an empty prompt', () => refused(fails('PROMPT_EMPTY', /received " {2}"/, '  '), {}, '  '));

    it('a prompt that is too long', async () => {
      const long = 'a star and '.repeat(20);
      await refused(fails('PROMPT_TOO_LONG', /at most 24 tokens .* received 61 tokens/, long), {}, long);
      await refused(fails('PROMPT_TOO_LONG', /tokens/), { negativePrompt: long });
      const huge = 'a'.repeat(1e7);
      await refused(fails('PROMPT_TOO_LONG', /10000000 characters/), {}, huge);
      const fitting = Array.from({ length: TINY_TOKENS - 1 }, () => 'star').join(' ');
      assert.equal((await pipe.generate(fitting)).images.length, 1);
    });

    it('an unknown option', () =>
      refused(fails('INVALID_ARGUMENT', /received "steps".*guidance/, 'steps'), { steps: 20 }));

    it('an unsupported size', () =>
      refused(fails('UNSUPPORTED_SIZE', /16x17.*16x16, 8x16/, [16, 17]), { size: [16, 17] }));

    it('guidance that is no number', () =>
      refused(fails('INVALID_ARGUMENT', /for guidance but received NaN/, Number.NaN), { guidance: Number.NaN }));

    it('an unknown option of either alone', async () => {
      const both = { count: 2, previews: 1 };
      await assert.rejects(
        pipe.generate('a', both as GenerateOptions),
        fails('INVALID_ARGUMENT', /"previews"/, 'previews'),
      );
      await assert.rejects(pipe.stream('a', both).next(), fails('INVALID_ARGUMENT', /"count"/, 'count'));
      await assert.rejects(pipe.stream('a', { previews: 3 }).next(), { code: 'INVALID_ARGUMENT' });
    });
  });

  describe('of fromPretrained', () => {
    const open = (source: unknown, options: object = {}) =>
      InfinityPipeline.fromPretrained(source as string, options as LoadOptions);

    it('no checkpoint', async () => {
      const nowhere = join(tiny.folder, 'nowhere');
      await assert.rejects(open(nowhere), fails('MODEL_NOT_FOUND', /nowhere/, nowhere));
      await assert.rejects(open(''), { code: 'INVALID_ARGUMENT' });
      await assert.rejects(open(7), { code: 'INVALID_ARGUMENT' });
    });

    it('options', async () => {
      await assert.rejects(open(tiny.directory, { gpu: 1 }), fails('INVALID_ARGUMENT', /"gpu"/, 'gpu'));
      await assert.rejects(open(tiny.directory, { dtype: 'int8' }), { code: 'INVALID_ARGUMENT', value: 'int8' });
      await assert.rejects(open(tiny.directory, { device: 'tpu' }), fails('INVALID_ARGUMENT', /tpu/, 'tpu'));
      await assert.rejects(open(tiny.directory, { threads: 0 }), { code: 'INVALID_ARGUMENT', value: 0 });
    });

    it('a truncated or altered file', async () => {
      const broken = await tinyCheckpoint();
      const weights = join(broken.directory, 'transformer/model.safetensors');
      const whole = (await readFile(weights)).length;
      await truncate(weights, whole - 100);
      await assert.rejects(open(broken.directory), fails('CHECKPOINT_INVALID', /truncated/, weights));
      await appendFile(weights, Buffer.alloc(100, 1));
      await assert.rejects(open(broken.directory), fails('CHECKPOINT_INVALID', /SHA-256/, weights));
      await broken.remove();
    });

    it('a foreign folder', async () => {
      const foreign = join(tiny.folder, 'foreign');
      await mkdir(foreign);
      await writeFile(join(foreign, 'model_index.json'), '{"_class_name":"StableDiffusionPipeline"}');
      await assert.rejects(open(foreign), fails('CHECKPOINT_INVALID', /another program/));
    });

    it('a tensor of another shape, type or name', async () => {
      const name = 'word_embed.weight';
      const reshaped = changed('transformer', ({ tensors }) => {
        const tensor = tensors.get(name)!;
        tensors.set(name, { ...tensor, shape: [...tensor.shape].reverse() });
      });
      await assert.rejects(
        loading(reshaped),
        fails('CHECKPOINT_CONFIG_MISMATCH', /word_embed.weight.*\[32, 8\].*\[8, 32\]/, name),
      );
      const retyped = changed('transformer', ({ tensors }) => {
        const { shape, data } = tensors.get(name)!;
        tensors.set(name, { dtype: 'I16', shape, data } as TensorData);
      });
      await assert.rejects(loading(retyped), fails('CHECKPOINT_CONFIG_MISMATCH', /word_embed.weight.*I16/, name));
      const renamed = changed('vae', ({ tensors }) => {
        tensors.set('encoder.extra', tensors.get('encoder.conv_in.conv.bias')!);
        tensors.delete('encoder.conv_in.conv.bias');
      });
      await assert.rejects(
        loading(renamed),
        fails('CHECKPOINT_CONFIG_MISMATCH', /"encoder.extra".*encoder.conv_in.conv.bias/s),
      );
    });

    it('components that do not belong together', async () => {
      const bits = changed('transformer', ({ config }) => {
        config.vae_embed_dim = 16;
      });
      await assert.rejects(loading(bits), fails('CHECKPOINT_CONFIG_MISMATCH', /16 bits .* 8/, 16));
      const width = changed('transformer', ({ config }) => {
        config.text_channels = 256;
      });
      await assert.rejects(loading(width), fails('CHECKPOINT_CONFIG_MISMATCH', /128 wide .* 256/, 128));
      const words = changed('text_encoder', ({ config }) => {
        config.vocab_size = 10;
      });
      await assert.rejects(loading(words), fails('CHECKPOINT_CONFIG_MISMATCH', /tokens but the text encoder has 10/));
    });

    it('settings that cannot be used', () =>
      assert.rejects(
        loading((content) => ({ ...content, generationConfig: { tau: -1 } })),
        fails('CHECKPOINT_INVALID', /generation_config.json.*tau/, -1),
      ));

    it('a missing component', async () => {
      const noText = ({ components: { text_encoder: _, ...components }, ...rest }: CheckpointContent) => ({
        ...rest,
        components,
      });
      await assert.rejects(loading(noText), fails('MODEL_NOT_FOUND', /text_encoder/));
      await assert.rejects(
        loading(({ tokenizer: _, ...content }) => content),
        fails('MODEL_NOT_FOUND', /tokenizer.json/),
      );
    });
  });

  describe('of pictures', () => {
    it('a file that is no picture', async () => {
      const text = join(tiny.directory, 'model_index.json');
      await assert.rejects(loadImage(text), fails('IMAGE_INVALID', /cannot decode/, text));
      await assert.rejects(loadImage(join(tiny.folder, 'none.png')), fails('IO_ERROR', /none.png/));
    });

    it('something else than a picture', async () => {
      for (const wrong of ['photo.png', undefined, {}, { width: 4, height: 4, data: new Uint8Array(3) }]) {
        const picture = wrong as unknown as Image;
        await assert.rejects(pipe.reconstruct(picture), fails('IMAGE_INVALID', /Expected a picture/));
        await assert.rejects(pipe.encode(picture), { code: 'IMAGE_INVALID' });
      }
    });

    it('bits that are none of this model', async () => {
      const tokens = await pipe.encode(new Image({ width: 16, height: 16, data: new Uint8Array(768) }));
      const foreign = { name: 'another', sha256: 'ab'.repeat(32) };
      await assert.rejects(
        pipe.decode(new BitTokens({ ...tokens, tokenizer: foreign })),
        fails('INVALID_ARGUMENT', /tokenizer of "another" \(abababababab\), not by that of "model"/, foreign),
      );
      const doubled = new BitTokens({ ...tokens, height: 32, width: 32 });
      await assert.rejects(pipe.decode(doubled), fails('INVALID_ARGUMENT', /32x32: 1x1 2x2 4x4/));
      await assert.rejects(pipe.decode({ ...tokens } as BitTokens), fails('INVALID_ARGUMENT', /a BitTokens/));
      for (const scales of [0, 4, 1.5])
        await assert.rejects(pipe.decode(tokens, { scales }), { code: 'INVALID_ARGUMENT', value: scales });
      await assert.rejects(pipe.decode(tokens.prefix(2), { scales: 3 }), { code: 'INVALID_ARGUMENT', value: 3 });
    });

    it('a place that cannot be written', async () => {
      const image = new Image({ width: 1, height: 1, data: new Uint8Array(3) });
      const nowhere = join(tiny.folder, 'no/such/folder.png');
      await assert.rejects(image.toFile(nowhere), fails('IO_ERROR', /ENOENT/, nowhere));
      await assert.rejects(image.toFile(join(tiny.folder, 'out.bmp')), { code: 'INVALID_ARGUMENT' });
    });

    it('a full disk', async function () {
      if (!existsSync('/dev/full')) return this.skip();
      const image = new Image({ width: 1, height: 1, data: new Uint8Array(3) });
      await assert.rejects(image.toFile('/dev/full', { format: 'png' }), fails('DISK_FULL', /No space/, '/dev/full'));
    });
  });
});
