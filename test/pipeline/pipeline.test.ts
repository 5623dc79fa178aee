import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Device } from '../../lib/device.js';
import { type Image, loadImage } from '../../lib/io/index.js';
import { describeCheckpoint, InfinityPipeline, type ScaleEvent, type StreamEvent } from '../../lib/pipeline/index.js';
import { BitTokens } from '../../lib/tokenizer/bit_file.js';
import { randomArray } from '../support/numeric.js';
import { TINY_SCALES, tinyCheckpoint } from '../support/tiny_checkpoint.js';

const bytes = (image: Image | undefined): string => Buffer.from((image ?? assert.fail()).data).toString('hex');
const picture = (height: number, width: number) => ({
  ...{ height, width },
  data: Uint8Array.from(randomArray(5, height * width * 3, 128), (v) => v + 128),
});

describe('pipeline', () => {
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

  it('draws a prompt and tells seed, settings and time', async () => {
    const events: ScaleEvent[] = [];
    const { images, milliseconds } = await pipe.generate('a red circle', { onScale: (event) => events.push(event) });
    assert.equal(images.length, 1);
    const [{ width, height, seed, metadata }] = images as [Image];
    assert.deepEqual([width, height], [16, 16]);
    assert.ok(Number.isSafeInteger(seed) && milliseconds > 0);
    assert.deepEqual(metadata, {
      ...{ prompt: 'a red circle', image: 0, size: [16, 16], guidance: 2, tau: 1, topK: 0, topP: 0 },
      model: { name: 'model', sha256: pipe.info.sha256 },
    });
    const scales = Array.from({ length: TINY_SCALES }, (_, scale) => ({
      type: 'scale',
      scale,
      of: 3,
      group: 0,
      groups: 1,
    }));
    assert.deepEqual(events, scales);
    assert.equal(pipe.scaleCount, TINY_SCALES);
  });

  it('draws the same picture alone, in a batch of eight, split into groups, and on one thread or two', async () => {
    const prompt = 'a star left of a ring';
    const alone = await pipe.generate(prompt, { seed: 11 });
    const other = await pipe.generate(prompt, { seed: 12 });
    assert.notEqual(bytes(alone.images[0]), bytes(other.images[0]));
    const prompts = ['a', 'two green stars', prompt, 'a cross', 'b', 'c', 'd', 'a blue ring and a pink square'];
    const batch = await pipe.generate(prompts, { seed: [1, 2, 11, 3, 4, 5, 6, 7] });
    assert.equal(bytes(batch.images[2]), bytes(alone.images[0]));
    const many = await pipe.generate(prompt, { seed: 11, count: 20 });
    assert.equal(bytes(many.images[0]), bytes(alone.images[0]));
    assert.equal(new Set(many.images.map(bytes)).size, 20);
    for (const threads of [1, 2]) {
      await using own = await InfinityPipeline.fromPretrained(tiny.directory, { threads });
      assert.equal(own.info.threads, threads);
      const again = await own.generate(prompt, { seed: 11, firstImage: 17 });
      assert.equal(bytes(again.images[0]), bytes(many.images[17]));
    }
  });

  it('draws a picture again from the settings inside its PNG', async () => {
    const drawn = await pipe.generate('a pink cross', {
      ...{ count: 2, guidance: [1, 3, 2], tau: 0.7, topP: 0.9, size: [8, 16], negativePrompt: 'a square' },
    });
    const stored = await loadImage(await drawn.images[1]!.toBuffer('png'));
    const { model, prompt, options } = InfinityPipeline.settingsOf(stored);
    assert.equal(model.sha256, pipe.info.sha256);
    const again = await pipe.generate(prompt, options);
    assert.equal(bytes(again.images[0]), bytes(drawn.images[1]));
    assert.deepEqual(again.images[0]!.metadata, drawn.images[1]!.metadata);
    const plain = await loadImage(await drawn.images[1]!.toBuffer('webp'));
    assert.throws(() => InfinityPipeline.settingsOf(plain), { code: 'IMAGE_INVALID' });
  });

  it('lets negative prompts and guidance act', async () => {
    const draw = async (options: object) => bytes((await pipe.generate('a ring', { seed: 3, ...options })).images[0]);
    const variants = [{}, { guidance: 1 }, { guidance: 9 }, { negativePrompt: 'two stars' }, { topK: 1 }, { tau: 0.2 }];
    const drawn = await Promise.all(variants.map(draw));
    assert.equal(new Set(drawn).size, variants.length);
    assert.equal(await draw({ topK: 1, seed: 4 }), drawn[4]);
    assert.equal(await draw({ guidance: 1, negativePrompt: 'two stars' }), drawn[1]);
  });

  it('streams scales, previews and the picture', async () => {
    const events: StreamEvent[] = [];
    for await (const event of pipe.stream('a star', { seed: 5, previews: 2 })) events.push(event);
    const kinds = events.map((event) => (event.type === 'done' ? 'done' : `${event.scale}${event.preview ? '+' : ''}`));
    assert.deepEqual(kinds, ['0+', '1+', '2', 'done']);
    const last = events.at(-1);
    assert.ok(last?.type === 'done');
    const { images } = await pipe.generate('a star', { seed: 5 });
    assert.equal(bytes(last.images[0]), bytes(images[0]));
    const previews = events.flatMap((event) => (event.type === 'scale' && event.preview ? [bytes(event.preview)] : []));
    assert.equal(new Set([...previews, bytes(images[0])]).size, 3);
  });

  it('encodes, decodes and reconstructs', async () => {
    const original = picture(16, 16);
    const tokens = await pipe.encode(original);
    assert.deepEqual(
      tokens.scales.map((bits) => bits.length),
      [8, 4 * 8, 16 * 8],
    );
    assert.equal(tokens.tokenizer.name, 'model');
    const decoded = await pipe.decode(tokens);
    const { image, psnr, ssim, bits, bitsPerPixel } = await pipe.reconstruct(original);
    assert.equal(bytes(decoded), bytes(image));
    assert.deepEqual([bits, bitsPerPixel], [21 * 8, (21 * 8) / 256]);
    const error = original.data.reduce((sum, v, i) => sum + (v - image.data[i]!) ** 2, 0) / original.data.length;
    assert.ok(Math.abs(psnr - 10 * Math.log10(255 ** 2 / error)) < 1e-9);
    assert.ok(ssim > -1 && ssim < 1);
    const flipped = new BitTokens({ ...tokens, scales: tokens.scales.map((scale) => scale.map((bit) => 1 - bit)) });
    assert.notEqual(bytes(await pipe.decode(flipped)), bytes(image));
  });

  it('knows its tokenizer by its weights, whatever else the checkpoint holds', async () => {
    const { tokenizer } = await pipe.encode(picture(16, 16));
    const sameWeights = await tinyCheckpoint(({ generationConfig: _, ...content }) => content);
    const otherWeights = await tinyCheckpoint(({ components: { vae, ...rest }, ...content }) => {
      const tensors = new Map(vae!.tensors);
      const bias = tensors.get('decoder.conv_out.conv.bias')!;
      const data = Uint8Array.from(bias.data);
      data[1]! ^= 0x80;
      tensors.set('decoder.conv_out.conv.bias', { ...bias, data } as typeof bias);
      return { ...content, components: { ...rest, vae: { ...vae!, tensors } } };
    });
    try {
      await using same = await InfinityPipeline.fromPretrained(sameWeights.directory, { dtype: 'bf16' });
      await using other = await InfinityPipeline.fromPretrained(otherWeights.directory);
      assert.deepEqual((await same.encode(picture(16, 16))).tokenizer, tokenizer);
      assert.notEqual((await other.encode(picture(16, 16))).tokenizer.sha256, tokenizer.sha256);
    } finally {
      await sameWeights.remove();
      await otherWeights.remove();
    }
  });

  it('fits pictures of other sizes to the nearest shape', async () => {
    const { image } = await pipe.reconstruct(picture(40, 90));
    assert.deepEqual([image.height, image.width], [8, 16]);
  });

  it('lets calls overlap', async () => {
    const seeds = [1, 2, 3, 4, 5, 6];
    const together = await Promise.all(seeds.map((seed) => pipe.generate('a ring', { seed })));
    for (const [i, seed] of seeds.entries())
      assert.equal(bytes(together[i]!.images[0]), bytes((await pipe.generate('a ring', { seed })).images[0]));
  });

  it('keeps no tensor of a finished call but the remembered features and the learned text', async () => {
    const live = () => Device.default().stats().liveTensors;
    for (const negativePrompt of [undefined, 'a cross']) await pipe.generate('a ring', { negativePrompt });
    const before = live();
    await pipe.generate('a ring', { negativePrompt: 'a cross', count: 3 });
    await pipe.reconstruct(picture(16, 16));
    for await (const _ of pipe.stream('a ring', { previews: 1 })) break;
    await Device.default().sync();
    assert.equal(live(), before);
    for (let i = 0; i < 100; i++) await pipe.encode(picture(16, 16));
    assert.equal(live(), before);
  });

  it('forgets the features of prompts that were not used for long', async () => {
    const live = () => Device.default().stats().liveTensors;
    const prompts = Array.from({ length: 70 }, (_, i) => `${i}`);
    await pipe.generate(prompts);
    const full = live();
    await pipe.generate(prompts.map((p) => `${p} star`));
    assert.equal(live(), full);
  });

  it('loads a tokenizer without a transformer, which cannot draw', async () => {
    const alone = await tinyCheckpoint(({ components: { vae } }) => ({ components: { vae } }));
    try {
      await using only = await InfinityPipeline.fromPretrained(alone.directory);
      assert.deepEqual(only.sizes, [[16, 16]]);
      const original = picture(16, 16);
      assert.equal(bytes((await only.reconstruct(original)).image), bytes((await pipe.reconstruct(original)).image));
      await assert.rejects(only.generate('a star'), { code: 'MODEL_NOT_FOUND' });
    } finally {
      await alone.remove();
    }
  });

  it('keeps weights in bf16 where asked: the same bits, nearly the same pixels', async () => {
    await using half = await InfinityPipeline.fromPretrained(tiny.directory, { dtype: 'bf16' });
    assert.equal(half.info.dtype, 'bf16');
    const [a, b] = [await half.generate('a star', { seed: 1 }), await pipe.generate('a star', { seed: 1 })];
    // Stored in bf16, linear weights lose nothing; the decoder's up-sampling kernels are sums of weights and do.
    const worst = Math.max(...a.images[0]!.data.map((v, i) => Math.abs(v - b.images[0]!.data[i]!)));
    assert.ok(worst <= 4, `${worst} levels apart`);
  });

  it('describes a checkpoint without reading its weights', async () => {
    const description = await describeCheckpoint(tiny.directory);
    assert.equal(description.sha256, pipe.info.sha256);
    const { transformer } = description.components;
    assert.deepEqual(transformer?.dtypes, { BF16: transformer?.parameters });
    assert.equal(transformer?.config.embed_dim, 32);
    await assert.rejects(describeCheckpoint(join(tiny.folder, 'nothing')), { code: 'MODEL_NOT_FOUND' });
  });

  it('reports the networks as they load', async () => {
    const seen: string[] = [];
    const onProgress = ({ component, done, of }: { component: string; done: number; of: number }) =>
      seen.push(`${component} ${done}/${of}`);
    await using _ = await InfinityPipeline.fromPretrained(tiny.directory, { onProgress });
    assert.deepEqual(seen, ['text_encoder 1/3', 'transformer 2/3', 'vae 3/3']);
  });

  it('does not need its files after loading', async () => {
    const copy = await tinyCheckpoint();
    await using loaded = await InfinityPipeline.fromPretrained(copy.directory);
    await rm(copy.folder, { recursive: true });
    assert.equal((await loaded.generate('a star')).images.length, 1);
  });
});
