import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { Device } from '../../lib/device.js';
import type { Image } from '../../lib/io/index.js';
import { InfinityPipeline } from '../../lib/pipeline/index.js';
import { randomArray } from '../support/numeric.js';
import { TINY_SCALES, tinyCheckpoint } from '../support/tiny_checkpoint.js';

const bytes = (image: Image | undefined): string => Buffer.from((image ?? assert.fail()).data).toString('hex');

describe('offload', () => {
  let tiny: Awaited<ReturnType<typeof tinyCheckpoint>>;
  before(async () => {
    tiny = await tinyCheckpoint();
  });
  after(() => tiny?.remove());

  const load = (options: object = {}) => InfinityPipeline.fromPretrained(tiny.directory, options);
  async function live(): Promise<number> {
    for (let i = 0; i < 5; i++) await sleep(1);
    await Device.default().sync();
    return Device.default().stats().liveTensors;
  }

  it('draws, streams, encodes and decodes the same bits, in bands as well', async () => {
    await using resident = await load();
    await using offloaded = await load({ offload: true, tile: true });
    const picture = { height: 16, width: 16, data: Uint8Array.from(randomArray(5, 768, 128), (v) => v + 128) };
    const all = async (pipe: InfinityPipeline) => {
      const drawn = await pipe.generate(['a star', 'a ring'], { seed: 3, count: 2, negativePrompt: 'a cross' });
      const events: string[] = [];
      for await (const event of pipe.stream('two stars', { seed: 4, previews: TINY_SCALES - 1 }))
        events.push(event.type === 'done' ? bytes(event.images[0]) : event.preview ? bytes(event.preview) : 'last');
      const bits = await pipe.encode(picture);
      return [
        drawn.images.map(bytes),
        events,
        bytes(await pipe.decode(bits)),
        bytes((await pipe.reconstruct(picture)).image),
      ];
    };
    assert.deepEqual(await all(offloaded), await all(resident));
  });

  it('keeps one network in memory, and requests that overlap take turns', async () => {
    await using resident = await load({ threads: 1 });
    await using offloaded = await load({ threads: 1, offload: true });
    const weights = async (pipe: InfinityPipeline) => {
      const images = await Promise.all([1, 2, 3].map((seed) => pipe.generate('a star', { seed })));
      return images.map(({ images: [image] }) => bytes(image));
    };
    assert.deepEqual(await weights(offloaded), await weights(resident));
  });

  it('leaves nothing behind after aborts and disposals in the middle of loading and drawing', async () => {
    const before = await live();
    for (let i = 0; i < 30; i++) {
      const pipe = await load({ offload: true });
      const controller = new AbortController();
      const calls = [0, 1].map((seed) =>
        pipe.generate('a star', { seed, signal: controller.signal }).then(
          () => undefined,
          (error) => assert.ok(error.code === 'DISPOSED' || error.message === 'stop', String(error)),
        ),
      );
      await sleep(i % 10);
      if (i % 3 === 0) controller.abort(new Error('stop'));
      if (i % 3 === 1) await pipe.generate('a ring', { seed: 1 });
      await Promise.all([pipe.dispose(), ...calls]);
      await assert.rejects(pipe.generate('a star'), { code: 'DISPOSED' });
    }
    assert.equal(await live(), before);
  });
});
