import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Device } from '../../lib/device.js';
import { OPS_DIGEST } from '../../lib/ops_digest.js';
import { InfinityPipeline } from '../../lib/pipeline/pipeline.js';
import { tinyCheckpoint } from '../support/tiny_checkpoint.js';

/** Runs `fn` with another NODE_INFINITY_CUDA_LIBRARY. */
async function withLibrary<T>(path: string, fn: () => Promise<T>): Promise<T> {
  const before = process.env.NODE_INFINITY_CUDA_LIBRARY;
  process.env.NODE_INFINITY_CUDA_LIBRARY = path;
  try {
    return await fn();
  } finally {
    if (before === undefined) delete process.env.NODE_INFINITY_CUDA_LIBRARY;
    else process.env.NODE_INFINITY_CUDA_LIBRARY = before;
  }
}

describe('a pipeline on a card', function () {
  this.timeout(120_000);
  let tiny: Awaited<ReturnType<typeof tinyCheckpoint>>;
  before(async () => {
    tiny = await tinyCheckpoint();
  });
  after(() => tiny?.remove());

  it('is refused with the reason and the cure where there is none', async () => {
    const nowhere = '/nowhere/node_infinity_cuda.so';
    await withLibrary(nowhere, () =>
      assert.rejects(InfinityPipeline.fromPretrained(tiny.directory, { device: 'cuda' }), {
        code: 'DEVICE_UNAVAILABLE',
        value: nowhere,
        message: /NODE_INFINITY_CUDA_LIBRARY/,
      }),
    );
    // A library that is none of ours.
    await withLibrary(process.execPath, () =>
      assert.rejects(InfinityPipeline.fromPretrained(tiny.directory, { device: 'cuda' }), {
        code: 'DEVICE_UNAVAILABLE',
        message: /could not be opened/,
      }),
    );
  });

  describe('that is there', () => {
    before(function () {
      if (!process.env.NODE_INFINITY_CUDA_LIBRARY) this.skip(); // needs NODE_INFINITY_CUDA_LIBRARY
    });
    const draw = async (device: 'cpu' | 'cuda', dtype?: 'f32' | 'bf16'): Promise<Uint8Array> => {
      await using pipe = await InfinityPipeline.fromPretrained(tiny.directory, { device, dtype });
      assert.equal(pipe.info.device, device);
      if (!dtype) assert.equal(pipe.info.dtype, device === 'cuda' ? 'bf16' : 'f32');
      const { images } = await pipe.generate('a red circle', { seed: 3, guidance: 3, count: 2 });
      return Uint8Array.from(images.flatMap(({ data }) => [...data]));
    };

    it('is refused when its library was built from another table of ops', async () => {
      const digest = Buffer.alloc(4);
      digest.writeUInt32LE(OPS_DIGEST);
      const library = await readFile(process.env.NODE_INFINITY_CUDA_LIBRARY!);
      assert.ok(library.includes(digest), 'the digest stands in the library');
      // More than once with debug information, which tells the values of constants too.
      for (let at = library.indexOf(digest); at >= 0; at = library.indexOf(digest, at + 1))
        library.writeUInt32LE((OPS_DIGEST ^ 1) >>> 0, at);
      const folder = await mkdtemp(join(tmpdir(), 'library-'));
      const other = join(folder, 'other.so');
      await writeFile(other, library);
      await withLibrary(other, async () =>
        assert.throws(() => Device.create('cuda'), { code: 'DEVICE_UNAVAILABLE', message: /of another version/ }),
      ).finally(() => rm(folder, { recursive: true }));
    });

    it('draws the pictures of the processor', async () => {
      const [want, got] = [await draw('cpu'), await draw('cuda', 'f32')];
      // A bit whose draw falls between two roundings of its probability may differ; hardly one does.
      const different = want.filter((byte, i) => Math.abs(byte - got[i]!) > 2).length;
      assert.ok(different <= want.length / 100, `${different} of ${want.length} bytes differ`);
    });

    it('draws in bf16 unless told otherwise, the same picture every time', async () => {
      const [first, again] = [await draw('cuda'), await draw('cuda', 'bf16')];
      assert.deepEqual(first, again);
      assert.ok(new Set(first).size > 16, 'a picture');
    });

    it('draws a form again from what it recorded', async () => {
      await using pipe = await InfinityPipeline.fromPretrained(tiny.directory, { device: 'cuda' });
      const draw = async (seed: number): Promise<Uint8Array> => {
        const { images } = await pipe.generate('a red circle', { seed, guidance: 3 });
        return Uint8Array.from(images[0]!.data);
      };
      // Submitted, recorded, run.
      const pictures = [await draw(3), await draw(3), await draw(3)];
      for (const picture of pictures) assert.deepEqual(picture, pictures[0]);
      assert.notDeepEqual(await draw(4), pictures[0]);
      const before = Device.default('cuda').stats().commands;
      await draw(5);
      const few = Device.default('cuda').stats().commands - before;
      assert.ok(few < 150, `${few} commands`);
    });

    it('decodes in bf16 within roundings of f32', async () => {
      const decode = async (dtype: 'f32' | 'bf16'): Promise<Uint8Array> => {
        await using pipe = await InfinityPipeline.fromPretrained(tiny.directory, { device: 'cuda', dtype });
        const [height, width] = pipe.sizes[0]!;
        const picture = {
          width,
          height,
          data: Uint8Array.from({ length: width * height * 3 }, (_, i) => (i * 37) % 256),
        };
        return Uint8Array.from((await pipe.reconstruct(picture)).image.data);
      };
      const [want, got] = [await decode('f32'), await decode('bf16')];
      const off = want.map((byte, i) => Math.abs(byte - got[i]!));
      assert.ok(Math.max(...off) <= 12, `a byte differs by ${Math.max(...off)}`);
    });

    it('leaves nothing behind when it is aborted', async () => {
      await using pipe = await InfinityPipeline.fromPretrained(tiny.directory, { device: 'cuda' });
      const device = Device.default('cuda');
      // Makes what is kept from then on; the second one records.
      for (let seed = 0; seed < 2; seed++) await pipe.generate('a star', { seed });
      await device.sync();
      const { liveTensors } = device.stats();
      for (let scale = 0; scale < 3; scale++) {
        const abort = new AbortController();
        const onScale = (event: { scale: number }): void => {
          if (event.scale === scale) abort.abort();
        };
        const drawn = pipe.generate('a star', { seed: scale, signal: abort.signal, onScale });
        if (scale < 2) await assert.rejects(drawn, { name: 'AbortError' });
        else await drawn.catch(() => undefined);
      }
      await device.sync();
      assert.equal(device.stats().liveTensors, liveTensors);
    });
  });
});
