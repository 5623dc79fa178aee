import assert from 'node:assert/strict';
import { cp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Image } from '../../lib/io/image.js';
import { openTensors } from '../../lib/io/open_tensors.js';
import { readAll } from '../../lib/io/tensor_source.js';
import type { LoadOptions } from '../../lib/pipeline/load_options.js';
import type { PretrainedParts } from '../../lib/pipeline/official_parts.js';
import { InfinityPipeline } from '../../lib/pipeline/pipeline.js';
import type { BitTokens } from '../../lib/tokenizer/bit_file.js';
import {
  nearestTemplate,
  PIXEL_BUDGETS,
  pixelSize,
  TEMPLATE_RATIOS,
  templateSchedule,
} from '../../lib/tokenizer/schedule.js';
import { type OfficialFiles, officialFiles } from '../support/official_files.js';
import { torchState } from '../support/torch_file.js';

const SMALL = { size: [32, 32], seed: 5 } as const;

describe('official parts', function () {
  this.timeout(60_000);
  let files: OfficialFiles;
  before(async () => {
    files = await officialFiles();
  });
  after(() => files?.remove());

  const load = (parts: PretrainedParts, options?: LoadOptions) => InfinityPipeline.fromPretrained(parts, options);
  const whole = (): PretrainedParts => ({
    transformer: files.transformer,
    vae: files.vae,
    textEncoder: files.textEncoder,
  });
  async function draw(parts: PretrainedParts): Promise<Image> {
    await using pipe = await load(parts);
    return (await pipe.generate('a star', SMALL)).images[0]!;
  }

  it('are configured by their tensors and draw at every official size, by the rule of the nearest template', async () => {
    await using pipe = await load(whole());
    assert.equal(pipe.info.name, 'tiny_reg');
    assert.deepEqual(pipe.info.defaults, { guidance: 3, tau: 1, topK: 900, topP: 0.97, size: [128, 128] });
    // A token of this tokenizer has 2 × 2 pixels instead of 16 × 16.
    const sizes = PIXEL_BUDGETS.flatMap((budget) =>
      TEMPLATE_RATIOS.map((ratio) => pixelSize(templateSchedule(ratio, budget), 2).join('x')),
    );
    assert.equal(sizes.length, 60);
    assert.deepEqual(pipe.sizes.map((size) => size.join('x')).sort(), sizes.sort());
    const small = pixelSize(templateSchedule(0.333, '0.06M'), 2);
    const { images } = await pipe.generate('a star', { aspect: 2.9, pixels: small[0] * small[1], seed: 1, topK: 1 });
    assert.deepEqual([images[0]!.height, images[0]!.width], small);
    for (const [height, width] of [
      [100, 116],
      [112, 100],
      [23, 10],
      [10, 23],
      [1000, 1583],
    ] as const) {
      const tokens = await pipe.encode(new Image({ height, width, data: new Uint8Array(3 * height * width) }));
      const template = templateSchedule(nearestTemplate(height, width), '1M');
      assert.ok(Math.abs(tokens.height / tokens.width - template.at(-1)![1] / template.at(-1)![2]) < 1e-9);
    }
  });

  it('give the same picture in any nesting and spelling, from files and from their conversions', async () => {
    const { data } = await draw({ transformer: files.training, textEncoder: files.textEncoder });
    const other = await draw({
      transformer: files.training,
      vae: files.vaeAlternative,
      textEncoder: files.textEncoder,
    });
    assert.deepEqual(other.data, data);
    const averaged = await draw({ ...whole(), transformer: files.training, ema: true });
    assert.notDeepEqual(averaged.data, data);
    const bf16 = await draw(whole());
    assert.notDeepEqual(bf16.metadata.model, other.metadata.model);
  });

  it('take a text encoder from .bin files, whole and in shards', async () => {
    const { data } = await draw(whole());
    const weights = await openTensors(join(files.textEncoder, 'model.safetensors'));
    const tensors = await readAll(weights);
    await weights.close();
    const half = Math.ceil(tensors.size / 2);
    const shards = [new Map([...tensors].slice(0, half)), new Map([...tensors].slice(half))];
    const names = shards.map((_, i) => `pytorch_model-0000${i + 1}-of-00002.bin`);
    const index = shards.flatMap((shard, i) => [...shard.keys()].map((name) => [name, names[i]]));
    const layouts = {
      'whole.bin': { 'pytorch_model.bin': torchState(tensors) },
      'shards.bin': {
        [names[0]!]: torchState(shards[0]!),
        [names[1]!]: torchState(shards[1]!),
        'pytorch_model.bin.index.json': JSON.stringify({ metadata: {}, weight_map: Object.fromEntries(index) }),
      },
    };
    for (const [name, contents] of Object.entries(layouts)) {
      const folder = join(files.folder, name);
      await cp(files.textEncoder, folder, { recursive: true });
      await rm(join(folder, 'model.safetensors'));
      for (const [file, bytes] of Object.entries(contents)) await writeFile(join(folder, file), bytes);
      assert.deepEqual((await draw({ ...whole(), textEncoder: folder })).data, data, name);
    }
  });

  it('keep a digest of the tokenizer that does not depend on the file', async () => {
    const picture = new Image({ height: 32, width: 32, data: new Uint8Array(3 * 32 * 32).fill(90) });
    const encoded = async (vae: string): Promise<BitTokens> => {
      await using pipe = await load({ vae, config: { vae: { patch_size: 2 } } });
      return await pipe.encode(picture);
    };
    await assert.rejects(encoded(files.vae), { code: 'CHECKPOINT_INVALID', message: /scale_schedule/ });
    const tokens = async (vae: string): Promise<BitTokens> => {
      await using pipe = await load({ ...whole(), vae });
      return await pipe.encode(picture);
    };
    const [a, b] = [await tokens(files.vae), await tokens(files.vaeAlternative)];
    assert.equal(a.tokenizer.sha256, b.tokenizer.sha256);
    assert.deepEqual(a.scales, b.scales);
  });

  it('let options go first, and name the option where the tensors disagree', async () => {
    await using pipe = await load({
      ...whole(),
      config: { transformer: { text_maxlen: 4 }, generation: { guidance: 1, topK: 1, size: [32, 32] } },
    });
    assert.equal(pipe.info.promptTokens, 4);
    assert.deepEqual(pipe.info.defaults, { guidance: 1, tau: 1, topK: 1, topP: 0.97, size: [32, 32] });
    await assert.rejects(load({ ...whole(), config: { transformer: { num_heads: 4 } } }), {
      code: 'CHECKPOINT_CONFIG_MISMATCH',
      message:
        /transformer \(tiny_reg\.safetensors\) .*"block_chunks\.0\.module\.0\.sa\.scale_mul_1H11" \(num_heads, cos_attn\): expected \[1, 4, 1, 1\], found \[1, 2, 1, 1\]/,
    });
    await assert.rejects(load({ ...whole(), config: { vae: { codebook_dim: 16 } } }), {
      code: 'CHECKPOINT_CONFIG_MISMATCH',
      message: /codebook_dim/,
    });
    await assert.rejects(load({ ...whole(), config: { textEncoder: { num_layers: 2 } } }), {
      message: /text_encoder \(tiny-t5\).*num_layers/,
    });
  });

  it('are refused by name where one is missing, is another one, or cannot be meant', async () => {
    const { transformer, vae, textEncoder } = files;
    await assert.rejects(load({ vae, transformer }), { code: 'MODEL_NOT_FOUND', message: /text_encoder/ });
    await assert.rejects(load({ transformer, textEncoder }), { code: 'MODEL_NOT_FOUND', message: /vae/ });
    await assert.rejects(load({ transformer: vae, vae, textEncoder }), {
      code: 'CHECKPOINT_INVALID',
      message: /weights of the transformer in .*tiny_vae.* but found vae at vae/,
    });
    await assert.rejects(load({ ...whole(), ema: true }), { code: 'CHECKPOINT_INVALID', message: /averaged/ });
    const absent = join(files.folder, 'absent.pth');
    await assert.rejects(load({ ...whole(), transformer: absent }), { code: 'MODEL_NOT_FOUND', value: absent });
    const wrong: [object, unknown][] = [
      [{}, {}],
      [{ vea: vae }, 'vea'],
      [{ vae: 7 }, 7],
      [{ ...whole(), preset: 'infinity-3b' }, 'infinity-3b'],
      [{ ...whole(), ema: 'yes' }, 'yes'],
      [{ ...whole(), config: { transformer: 3 } }, 3],
      [{ ...whole(), config: { generation: { top_k: 3 } } }, 'top_k'],
    ];
    for (const [parts, value] of wrong)
      await assert.rejects(load(parts as PretrainedParts), { code: 'INVALID_ARGUMENT', value });
    const size = load({ ...whole(), config: { generation: { size: [33, 33] } } });
    await assert.rejects(size, { code: 'CHECKPOINT_INVALID', message: /33x33/ });
  });

  it('read the text tokenizer from a sentencepiece model as well', async () => {
    const spiece = 'test/fixtures/goldens/transformer/f_tokenizer/spiece.model';
    const hidden = join(files.textEncoder, 'hidden');
    await rename(join(files.textEncoder, 'tokenizer.json'), hidden);
    try {
      await assert.rejects(load(whole()), { code: 'MODEL_NOT_FOUND', message: /tokenizer\.json and no spiece\.model/ });
      // It has more pieces than this text encoder has rows: found, read and compared.
      const parts = { ...whole(), textTokenizer: spiece };
      await assert.rejects(load(parts), { code: 'CHECKPOINT_CONFIG_MISMATCH', message: /vocab_size/ });
      assert.ok((await readFile(spiece)).length > 0);
    } finally {
      await rename(hidden, join(files.textEncoder, 'tokenizer.json'));
      await rm(hidden, { force: true });
    }
  });
});
