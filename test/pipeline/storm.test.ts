import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { Device } from '../../lib/device.js';
import { linear } from '../../lib/ops/linear.js';
import { fill } from '../../lib/ops/shape.js';
import { InfinityPipeline } from '../../lib/pipeline/index.js';
import { scope } from '../../lib/tensor.js';
import { randomArray } from '../support/numeric.js';
import { TINY_SCALES, tinyCheckpoint } from '../support/tiny_checkpoint.js';

const STORM = 200;
/** Reproducible waits, some of which end before the first scale, some in the middle, some after the picture. */
const waits = (seed: number, milliseconds: number): number[] =>
  Array.from(randomArray(seed, STORM), (u) => ((u + 1) / 2) * milliseconds);

describe('storms', () => {
  let tiny: Awaited<ReturnType<typeof tinyCheckpoint>>;
  before(async () => {
    tiny = await tinyCheckpoint();
  });
  after(() => tiny?.remove());

  /** What is alive once everything that was released has settled. */
  async function live(): Promise<number> {
    for (let i = 0; i < 5; i++) await sleep(1);
    await Device.default().sync();
    return Device.default().stats().liveTensors;
  }

  async function drawingTime(pipe: InfinityPipeline): Promise<number> {
    await pipe.generate('a star', { count: 4 });
    return (await pipe.generate('a star', { count: 4 })).milliseconds;
  }

  it(`survives ${STORM} aborts at random moments`, async () => {
    await using pipe = await InfinityPipeline.fromPretrained(tiny.directory);
    const expected = await pipe.generate('a star', { seed: 3 });
    const time = await drawingTime(pipe);
    const before = await live();
    let aborted = 0;
    const storm = waits(1, time * 1.2).map(async (wait, i) => {
      const controller = new AbortController();
      const reason = new Error(`abort ${i}`);
      const abort = () => controller.abort(reason);
      // A third at a scale of its own, where a slow machine cannot be too late; the others by the clock.
      const scale = i % 3 === 0 ? (i / 3) % TINY_SCALES : -1;
      await sleep(i * 2);
      const draw = async () => {
        const { signal } = controller;
        if (i % 2 === 0) {
          await pipe.generate('a star', { count: 4, signal, onScale: (event) => event.scale === scale && abort() });
        } else {
          for await (const event of pipe.stream('a star', { previews: 2, signal }))
            if (event.type === 'scale' && event.scale === scale) abort();
        }
      };
      const outcome = draw().then(
        () => undefined,
        (error) => {
          assert.equal(error, reason);
          aborted++;
        },
      );
      if (scale < 0) {
        await sleep(wait);
        abort();
      }
      await outcome;
    });
    await Promise.all(storm);
    assert.ok(aborted >= STORM / 3, `only ${aborted} aborts came in time`);
    assert.equal(await live(), before);
    const again = await pipe.generate('a star', { seed: 3 });
    assert.deepEqual(again.images[0]!.data, expected.images[0]!.data);
  });

  it('keeps nothing of an aborted first request that a later one would use', async () => {
    const draw = async (pipe: InfinityPipeline) => (await pipe.generate('two red rings', { seed: 3 })).images[0]!.data;
    await using calm = await InfinityPipeline.fromPretrained(tiny.directory);
    await using pipe = await InfinityPipeline.fromPretrained(tiny.directory);
    const controller = new AbortController();
    // A large product keeps the queue busy: nothing of the aborted request runs before it is aborted.
    scope(() => linear(fill([512, 2048], 1), fill([2048, 2048], 1), null));
    const first = pipe.generate('two red rings', { seed: 3, signal: controller.signal });
    controller.abort(new Error('at once'));
    await assert.rejects(first, /at once/);
    assert.deepEqual(await draw(pipe), await draw(calm));
  });

  it('rejects with the reason at once, also when the signal was aborted before', async () => {
    await using pipe = await InfinityPipeline.fromPretrained(tiny.directory);
    const reason = { why: 'early' };
    const signal = AbortSignal.abort(reason);
    const is = (error: unknown) => error === reason;
    await assert.rejects(pipe.generate('a star', { signal }), is);
    await assert.rejects(pipe.stream('a star', { signal }).next(), is);
    await assert.rejects(pipe.encode({ width: 16, height: 16, data: new Uint8Array(768) }, { signal }), is);
    await assert.rejects(InfinityPipeline.fromPretrained(tiny.directory, { signal }), is);
  });

  it(`survives ${STORM} disposals during work`, async function () {
    this.timeout(60_000);
    const before = await live();
    let time: number;
    {
      await using pipe = await InfinityPipeline.fromPretrained(tiny.directory);
      time = await drawingTime(pipe);
    }
    let disposed = 0;
    const blank = { width: 16, height: 16, data: new Uint8Array(768) };
    const storm = async (wait: number, i: number): Promise<void> => {
      const pipe = await InfinityPipeline.fromPretrained(tiny.directory);
      const drawing = i % 3 === 0 ? pipe.reconstruct(blank) : pipe.generate('a star', { count: 4 });
      const outcome = drawing.then(
        () => undefined,
        (error) => {
          assert.equal(error.code, 'DISPOSED');
          disposed++;
        },
      );
      if (i % 2 === 0) await sleep(wait);
      await Promise.all([pipe.dispose(), pipe.dispose(), outcome]);
      await assert.rejects(pipe.generate('a star'), { code: 'DISPOSED' });
    };
    const all = waits(2, time * 1.2);
    const together = 20;
    for (let first = 0; first < STORM; first += together)
      await Promise.all(all.slice(first, first + together).map((wait, i) => storm(wait, first + i)));
    assert.ok(disposed >= STORM / 2, `only ${disposed} disposals came in time`);
    assert.equal(await live(), before);
  });

  it('disposes under a stream that nobody reads any more', async () => {
    const before = await live();
    const pipe = await InfinityPipeline.fromPretrained(tiny.directory);
    const events = pipe.stream('a star');
    await events.next();
    await pipe.dispose();
    assert.equal(await live(), before);
    await assert.rejects(events.next(), { code: 'DISPOSED' });
  });
});
