/** The embedded tokenizer as a tool: pictures through files of bits. Nothing here depends on how good its weights are. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { renderScene } from '../../lib/data/shapes/index.js';
import { sceneForPrompt, shapesPrompts } from '../../lib/eval/shapes/index.js';
import { type Image, loadImage, type Pixels } from '../../lib/io/index.js';
import { InfinityPipeline } from '../../lib/pipeline/index.js';
import { BitTokens } from '../../lib/tokenizer/bit_file.js';

describe('pictures as bits', () => {
  let pipe: InfinityPipeline;
  let folder: string;
  before(async () => {
    pipe = await InfinityPipeline.fromPretrained();
    folder = await mkdtemp(join(tmpdir(), 'picture-bits-'));
  });
  after(async () => {
    await pipe?.dispose();
    await rm(folder, { recursive: true });
  });

  /** Encodes, writes, reads and decodes; every prefix too. */
  async function checkFile(picture: Pixels, name: string): Promise<void> {
    const tokens = await pipe.encode(picture);
    const path = join(folder, 'picture.bits');
    await tokens.toFile(path);
    const read = await BitTokens.fromFile(path);
    assert.deepEqual(read, tokens, name);
    const pictures: Image[] = [];
    for (let scales = 1; scales <= tokens.scales.length; scales++) {
      const cut = BitTokens.parse(tokens.toBytes().subarray(0, tokens.prefix(scales).toBytes().length));
      const image = await pipe.decode(cut);
      assert.deepEqual((await pipe.decode(read, { scales })).data, image.data, `${name}, ${scales} scales`);
      pictures.push(image);
    }
    assert.deepEqual(pictures.at(-1)!.data, (await pipe.reconstruct(picture)).image.data, name);
    assert.ok(
      new Set(pictures.map(({ data }) => Buffer.from(data).toString('hex'))).size > 1,
      `${name}: prefixes agree`,
    );
  }

  it('go through files exactly: rendered shapes', async () => {
    const [height, width] = pipe.sizes[0]!;
    for (const prompt of shapesPrompts({ seed: 3, perCategory: 1 })) {
      const data = renderScene(sceneForPrompt(prompt, 5), height);
      await checkFile({ height, width, data }, prompt.prompt);
    }
  });

  it('go through files exactly: ten photos', async function () {
    const photos = process.env.NODE_INFINITY_PHOTOS;
    if (!photos) {
      this.test!.title += ': NODE_INFINITY_PHOTOS names no folder of photos';
      return this.skip();
    }
    const names = readdirSync(photos).filter((name) => /\.(jpe?g|png|webp)$/i.test(name));
    assert.ok(names.length > 0, `no photos in ${photos}`);
    for (const name of names.slice(0, 10)) await checkFile(await loadImage(join(photos, name)), name);
  });
});
