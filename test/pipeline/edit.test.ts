/** Editing and varying. What is checked holds for any weights: the pictures may be as bad as they like. */
import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { Image, loadImage, type Pixels } from '../../lib/io/index.js';
import { type EditOptions, InfinityPipeline, type Place, type VaryOptions } from '../../lib/pipeline/index.js';
import type { Tensor } from '../../lib/tensor.js';
import { Autoencoder } from '../../lib/tokenizer/autoencoder.js';
import { randomArray } from '../support/numeric.js';
import { TINY_SCALES, tinyCheckpoint, tinyPatchified } from '../support/tiny_checkpoint.js';

const noise = (height: number, width: number, seed = 5): Pixels => ({
  ...{ height, width },
  data: Uint8Array.from(randomArray(seed, height * width * 3, 128), (v) => v + 128),
});
const hex = (picture: Pixels | undefined): string => Buffer.from((picture ?? assert.fail()).data).toString('hex');

/** White where `inside` says so. */
function maskOf(height: number, width: number, inside: (y: number, x: number) => boolean): Pixels {
  const data = new Uint8Array(height * width * 3);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) if (inside(y, x)) data.fill(255, (y * width + x) * 3, (y * width + x) * 3 + 3);
  return { height, width, data };
}

/** Pixels that differ, by whether a white pixel of the mask is at most `stride` away in each direction. */
function differences(a: Pixels, b: Pixels, mask: Pixels, stride: number): { near: number; far: number } {
  const found = { near: 0, far: 0 };
  const white = (y: number, x: number): boolean => mask.data[(y * a.width + x) * 3] === 255;
  for (let y = 0; y < a.height; y++)
    for (let x = 0; x < a.width; x++) {
      const at = (y * a.width + x) * 3;
      if ([0, 1, 2].every((c) => a.data[at + c] === b.data[at + c])) continue;
      let near = false;
      for (let j = Math.max(0, y - stride); j <= Math.min(a.height - 1, y + stride); j++)
        for (let i = Math.max(0, x - stride); i <= Math.min(a.width - 1, x + stride); i++) near ||= white(j, i);
      found[near ? 'near' : 'far']++;
    }
  return found;
}

/** The sums of codes that the decoder reads while `fn` runs. */
async function decoded(fn: () => Promise<void>): Promise<Float32Array[]> {
  const { decode } = Autoencoder.prototype;
  const seen: Tensor[] = [];
  Autoencoder.prototype.decode = function (codes, tap) {
    seen.push(codes.retain());
    return decode.call(this, codes, tap);
  };
  try {
    await fn();
    return await Promise.all(seen.map(async (codes) => Float32Array.from(await codes.readFloats())));
  } finally {
    Autoencoder.prototype.decode = decode;
    for (const codes of seen) codes.dispose();
  }
}

const MODELS: readonly (readonly [string, () => ReturnType<typeof tinyCheckpoint>, stride: number])[] = [
  ['tokens of one position', tinyCheckpoint, 4],
  ['tokens of four positions', () => tinyCheckpoint(tinyPatchified), 4],
];

for (const [title, write, stride] of MODELS)
  describe(`editing, ${title}`, () => {
    let tiny: Awaited<ReturnType<typeof tinyCheckpoint>>;
    let pipe: InfinityPipeline;
    const original = noise(16, 16);
    before(async () => {
      tiny = await write();
      pipe = await InfinityPipeline.fromPretrained(tiny.directory);
    });
    after(async () => {
      await pipe?.dispose();
      await tiny?.remove();
    });

    it('changes pixels within one stride of the mask alone', async () => {
      const plain = (await pipe.reconstruct(original)).image;
      const masks = [
        maskOf(16, 16, (y, x) => y < 5 && x > 8),
        maskOf(16, 16, (y) => y >= 8),
        maskOf(16, 16, (y, x) => y === 7 && x === 7),
        maskOf(16, 16, (y, x) => (3 * y + 5 * x) % 31 === 0),
      ];
      let distinct = 0;
      for (const mask of masks) {
        const { images } = await pipe.edit(original, mask, 'a star', { seed: 1, count: 3 });
        assert.equal(images.length, 3);
        const found = images.map((image) => differences(image, plain, mask, stride));
        assert.ok(
          found.every(({ far }) => far === 0),
          `${found.map(({ far }) => far)} pixels changed far from the mask`,
        );
        assert.ok(found.some(({ near }) => near > 0));
        distinct = Math.max(distinct, new Set(images.map(hex)).size);
      }
      assert.equal(distinct, 3);
    });

    it('gives the decoder the codes of the picture at every position without a redrawn pixel', async () => {
      const mask = maskOf(16, 16, (y, x) => y < 5 && x > 8);
      const sums = await decoded(async () => {
        await pipe.reconstruct(original);
        await pipe.edit(original, mask, 'a star', { seed: 1 });
      });
      // The edit decodes the plain picture once more, and then what it drew.
      assert.equal(sums.length, 3);
      const [plain, again, drawn] = sums as [Float32Array, Float32Array, Float32Array];
      assert.deepEqual(again, plain);
      let changed = 0;
      for (let i = 0; i < plain.length; i++) {
        const [row, column] = [Math.floor(i / 8 / 4), Math.floor(i / 8) % 4];
        if (row < 2 && column >= 2) changed += Number(drawn[i] !== plain[i]);
        else assert.equal(drawn[i], plain[i], `position ${row}, ${column}`);
      }
      assert.ok(changed > 0);
    });

    it('draws what generate draws where everything is white', async () => {
      const options = { seed: 9, guidance: [1, 3, 2], topP: 0.9, negativePrompt: 'a ring' };
      const { images } = await pipe.edit(
        original,
        maskOf(16, 16, () => true),
        'a star',
        options,
      );
      assert.equal(hex(images[0]), hex((await pipe.generate('a star', options)).images[0]));
    });

    it('keeps none, some or all scales of a picture', async () => {
      const seed = 4;
      const drawn: string[] = [];
      for (let keepScales = 0; keepScales <= TINY_SCALES; keepScales++) {
        const { images } = await pipe.vary(original, { keepScales, prompt: 'a star', seed });
        drawn.push(hex(images[0]));
      }
      assert.equal(drawn[0], hex((await pipe.generate('a star', { seed })).images[0]));
      assert.equal(drawn[TINY_SCALES], hex((await pipe.reconstruct(original)).image));
      assert.equal(new Set(drawn).size, TINY_SCALES + 1);
      const other = await pipe.vary(original, { keepScales: TINY_SCALES, prompt: 'a star', seed: 5 });
      assert.equal(hex(other.images[0]), drawn[TINY_SCALES]);
    });
  });

describe('edits', () => {
  let tiny: Awaited<ReturnType<typeof tinyCheckpoint>>;
  let pipe: InfinityPipeline;
  const original = noise(16, 16);
  const mask = maskOf(16, 16, (y, x) => y < 8 && x < 8);
  before(async () => {
    tiny = await tinyCheckpoint();
    pipe = await InfinityPipeline.fromPretrained(tiny.directory);
  });
  after(async () => {
    await pipe?.dispose();
    await tiny?.remove();
  });

  it('are the same alone and in any batch, and tell of scales', async () => {
    const scales: number[] = [];
    const onScale = ({ scale }: { scale: number }) => scales.push(scale);
    const many = await pipe.edit(original, mask, ['a star', 'a ring'], { seed: [1, 2], count: 9, onScale });
    const alone = await pipe.edit(original, mask, 'a ring', { seed: 2, firstImage: 8 });
    assert.equal(hex(alone.images[0]), hex(many.images[17]));
    assert.deepEqual(scales, [0, 1, 2, 0, 1, 2]);
  });

  it('are the same with one network in memory at a time', async () => {
    await using lean = await InfinityPipeline.fromPretrained(tiny.directory, { offload: true });
    const drawn = async (p: InfinityPipeline): Promise<string[]> => [
      hex((await p.edit(original, mask, 'a star', { seed: 1 })).images[0]),
      hex((await p.vary(original, { keepScales: 2, prompt: 'a star', seed: 1 })).images[0]),
    ];
    assert.deepEqual(await drawn(lean), await drawn(pipe));
  });

  it('put a picture on a larger canvas and draw around it', async () => {
    const place: Place = { top: 4, left: 6, height: 8, width: 8 };
    const inner = noise(8, 8, 6);
    // The canvas as it is encoded: the outermost pixels go on.
    const canvas = { height: 16, width: 16, data: new Uint8Array(768) };
    for (let y = 0; y < 16; y++)
      for (let x = 0; x < 16; x++)
        for (let c = 0; c < 3; c++) {
          const [iy, ix] = [Math.min(7, Math.max(0, y - 4)), Math.min(7, Math.max(0, x - 6))];
          canvas.data[(y * 16 + x) * 3 + c] = inner.data[(iy * 8 + ix) * 3 + c]!;
        }
    const around = maskOf(16, 16, (y, x) => y < 4 || y >= 12 || x < 6 || x >= 14);
    const plain = (await pipe.reconstruct(canvas)).image;
    const { images } = await pipe.edit(inner, undefined, 'a star', { place, size: [16, 16], seed: 3 });
    // A place of 8 pixels has no pixel farther than one stride from its edges: there, pixels are blended.
    const found = differences(images[0]!, plain, around, 4);
    assert.ok(found.near > 0 && found.far === 0);
    const [wide] = (
      await pipe.edit(noise(8, 16), undefined, 'a star', {
        ...{ place: { top: 0, left: 0, height: 8, width: 9 }, size: [8, 16], seed: 3 },
      })
    ).images;
    assert.deepEqual([wide!.height, wide!.width], [8, 16]);
    assert.deepEqual(wide!.metadata.edit && (wide!.metadata.edit as { redrawn: number }).redrawn, 0.4375);
  });

  it('fit pictures and masks of other sizes together', async () => {
    const large = noise(40, 90);
    const { images } = await pipe.edit(
      large,
      maskOf(40, 90, (_, x) => x < 45),
      'a star',
      { seed: 1 },
    );
    assert.deepEqual([images[0]!.height, images[0]!.width], [8, 16]);
    const plain = (await pipe.reconstruct(large)).image;
    const half = maskOf(8, 16, (_, x) => x < 8);
    assert.equal(differences(images[0]!, plain, half, 4).far, 0);
  });

  it('say in the PNG what was done, and are not mistaken for pictures of their settings', async () => {
    const { images } = await pipe.edit(original, mask, 'a star', { seed: 1 });
    const stored = await loadImage(await images[0]!.toBuffer());
    const { edit, prompt } = stored.metadata as { edit: { picture: string; redrawn: number }; prompt: string };
    assert.deepEqual([prompt, edit.redrawn], ['a star', 0.25]);
    assert.match(edit.picture, /^[0-9a-f]{64}$/);
    assert.throws(() => InfinityPipeline.settingsOf(stored), { code: 'IMAGE_INVALID', message: /another/ });
    const varied = await pipe.vary(stored, { keepScales: 1 });
    const { vary, prompt: own } = varied.images[0]!.metadata as { vary: { keepScales: number }; prompt: string };
    assert.deepEqual([vary.keepScales, own], [1, 'a star']);
    assert.throws(() => InfinityPipeline.settingsOf(varied.images[0]!), { code: 'IMAGE_INVALID' });
  });

  it('can be aborted at any moment and leave nothing behind', async () => {
    const live = () => Device.default().stats().liveTensors;
    await pipe.edit(original, mask, 'a star');
    await Device.default().sync();
    const before = live();
    for (let n = 0; n < 12; n++) {
      const controller = new AbortController();
      const reason = new Error(`stop ${n}`);
      const { signal } = controller;
      const drawing =
        n % 2
          ? pipe.edit(original, mask, 'a star', { signal, count: 2 })
          : pipe.vary(original, { keepScales: 1, prompt: 'a star', signal });
      setTimeout(() => controller.abort(reason), n);
      await drawing.then(
        () => undefined,
        (error) => assert.equal(error, reason),
      );
    }
    // What an aborted call held is released when the queue has passed it.
    for (let i = 0; i < 50 && live() !== before; i++) await new Promise((resolve) => setTimeout(resolve, 10));
    await Device.default().sync();
    assert.equal(live(), before);
  });

  it('are refused by name', async () => {
    const edit = (picture: unknown, m: unknown, prompt: unknown, options: object = {}) =>
      pipe.edit(picture as Pixels, m as Pixels, prompt as string, options as EditOptions);
    await assert.rejects(edit('a.png', mask, 'a star'), { code: 'IMAGE_INVALID' });
    await assert.rejects(edit(original, undefined, 'a star'), { code: 'INVALID_ARGUMENT', message: /mask/ });
    await assert.rejects(edit(original, noise(8, 16), 'a star'), { code: 'INVALID_ARGUMENT', message: /16x16/ });
    await assert.rejects(edit(original, mask, ''), { code: 'PROMPT_EMPTY' });
    await assert.rejects(edit(original, mask, 'a star', { keepScales: 1 }), { message: /"keepScales"/ });
    await assert.rejects(edit(original, mask, 'a star', { tau: 0 }), { message: /tau/ });
    const place = { top: 0, left: 0, height: 17, width: 4 };
    await assert.rejects(edit(original, mask, 'a star', { place }), { message: /inside 16x16/ });
    const vary = (picture: Pixels, options: unknown) => pipe.vary(picture, options as VaryOptions);
    await assert.rejects(vary(original, { keepScales: 1 }), { code: 'PROMPT_EMPTY', message: /carries none/ });
    for (const keepScales of [-1, 4, 1.5, undefined])
      await assert.rejects(vary(original, { keepScales, prompt: 'a star' }), { message: /keepScales/ });
    await assert.rejects(vary(original, undefined), { code: 'INVALID_ARGUMENT' });
    await assert.rejects(vary(original, { keepScales: 1, place }), { message: /"place"/ });
    const image = new Image({ ...original, metadata: { prompt: 'a star' } });
    assert.equal((await vary(image, { keepScales: 1 })).images.length, 1);
  });
});
