/** Requests that run recorded commands draw what submitted ones draw, whatever changes from request to request. */
import assert from 'node:assert/strict';
import { Device, type DeviceKind } from '../../lib/device.js';
import { placed } from '../../lib/nn/module.js';
import { Tensor } from '../../lib/tensor.js';
import { type InfinityConfig, officialInfinityConfig } from '../../lib/transformer/config.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { Recordings } from '../../lib/transformer/recordings.js';
import { type SampleOptions, sampleScales } from '../../lib/transformer/sampler.js';

const SMALL: InfinityConfig = officialInfinityConfig('infinity_layer12', {
  embed_dim: 64,
  depth: 2,
  num_heads: 2,
  block_chunks: 1,
  text_channels: 128,
  text_maxlen: 96,
  vae_embed_dim: 8,
  scale_schedules: [
    [
      [1, 1, 1],
      [1, 2, 2],
      [1, 3, 3],
      [1, 4, 4],
    ],
  ],
});
const schedule = SMALL.scale_schedules![0]!;

const FINEST = [40, 3] as const;

/** What a test varies from request to request. */
interface Request extends Partial<SampleOptions> {
  /** Rows of each prompt, and what their numbers start from. */
  readonly lens: readonly number[];
  readonly prompt: number;
  readonly seed: number;
  readonly away?: number;
  /** Rows of each negative prompt; by default those of the prompt. */
  readonly awayLens?: readonly number[];
}

const SOFTMAX: InfinityConfig = { ...SMALL, head: 'softmax', vae_embed_dim: 6 };
/** Layers that the others do not have. */
const OTHER: InfinityConfig = {
  ...SMALL,
  apply_spatial_patchify: true,
  shared_aln: false,
  rms_norm: true,
  swiglu: true,
  nm0: true,
  cos_attn: false,
  head_depth: 2,
  block_chunks: 2,
  add_lvl_embeding_only_first_block: false,
  rope2d_normalized_by_hw: 0,
};
const KINDS: readonly DeviceKind[] = process.env.NODE_INFINITY_CUDA_LIBRARY ? ['cpu', 'cuda'] : ['cpu'];

// An emulated card takes seconds for a picture.
for (const kind of KINDS)
  for (const config of kind === 'cpu' ? [SMALL, SOFTMAX, OTHER] : [SMALL])
    describe(`recorded drawings on ${kind}, ${config === OTHER ? 'other layers' : `${config.head} head`}`, function () {
      this.timeout(120_000); // an emulated card is slow
      let device: Device;
      let model: InfinityTransformer;
      let recordings: Recordings;
      let [tensors, bytes] = [0, 0];

      const features = (prompt: number, lens: readonly number[]): Tensor => {
        const rows = lens.reduce((sum, n) => sum + n, 0);
        const values = Float32Array.from({ length: rows * 128 }, (_, i) => Math.sin(i * (prompt + 1)));
        return Tensor.from(values, [rows, 128], 'f32', device);
      };
      async function draw({ lens, prompt, seed, away, awayLens = lens, ...more }: Request): Promise<Uint8Array[]> {
        const drawn: Uint8Array[] = [];
        using kv_NCt = features(prompt, lens);
        using other_NCt = away === undefined ? undefined : features(away, awayLens);
        const options: SampleOptions = {
          text: { kv_NCt, lens },
          negative: other_NCt && { kv_NCt: other_NCt, lens: awayLens },
          images: lens.map((_, image) => ({ seed, image })),
          ...{ schedule, guidance: 2.5, topP: 0.95, ...more },
        };
        for await (const { bits } of sampleScales(model, options)) drawn.push((await bits.read()) as Uint8Array);
        return drawn;
      }
      const submitted = (request: Request) => draw(request);
      const recorded = (request: Request) => draw({ ...request, recordings });
      const commands = async (fn: () => Promise<unknown>): Promise<number> => {
        const before = device.stats().commands;
        await fn();
        return device.stats().commands - before;
      };

      before(async () => {
        device = Device.create(kind);
        model = placed({ device }, () => new InfinityTransformer(config))
          .initialize(5)
          .freeze();
        // Leaves behind what a network keeps: its rotary tables and the learned text.
        for (const form of [{}, { schedule: schedule.slice(0, 3) }, { finest: FINEST }])
          await draw({ lens: [90], prompt: 0, seed: 1, ...form });
        await device.sync();
        ({ liveTensors: tensors, liveBytes: bytes } = device.stats());
      });
      beforeEach(() => {
        recordings = new Recordings(model);
      });
      afterEach(async () => {
        recordings.dispose();
        await device.sync();
        const stats = device.stats();
        assert.deepEqual([stats.liveTensors, stats.liveBytes], [tensors, bytes], 'memory leaked');
      });
      after(() => device.close());

      it('draw the same pictures with other prompts, seeds, strengths and temperatures', async () => {
        const requests: Request[] = [
          { lens: [5, 7], prompt: 1, seed: 1 },
          { lens: [5, 7], prompt: 1, seed: 1 },
          { lens: [11, 2], prompt: 2, seed: 2, guidance: 4, tau: 0.7 },
          { lens: [30, 31], prompt: 3, seed: 3, guidance: [2, 3, 4, 5], tau: [1, 0.9, 0.8, 0.7], topP: 0.8 },
          { lens: [5, 7], prompt: 1, seed: 1 },
        ];
        const pictures = [];
        for (const request of requests) {
          pictures.push(await recorded(request));
          assert.deepEqual(pictures.at(-1), await submitted(request), `prompt ${request.prompt}`);
        }
        assert.deepEqual(pictures[0], pictures[4]);
        assert.notDeepEqual(pictures[0], pictures[2]);
      });

      it('are made of few commands from the third request on', async () => {
        const request: Request = { lens: [4], prompt: 1, seed: 1 };
        const [once] = [await commands(() => recorded(request)), await recorded(request)];
        const again = await commands(() => recorded({ ...request, seed: 2 }));
        // A program, two copies, a read and a wait a scale; the prompt and its inputs; what comes before the scales.
        assert.ok(again <= 5 * schedule.length + 7, `${again} commands`);
        assert.ok(once > 100, `${once} commands`);
      });

      it('follow the form: guided scales, negative prompts, greedy choice, longer prompts', async () => {
        const base: Request = { lens: [6], prompt: 4, seed: 9 };
        const forms: Request[] = [
          base,
          { ...base, guidance: 1 },
          { ...base, guidance: [2, 2, 1, 1] },
          { ...base, away: 8 },
          { ...base, away: 8, awayLens: [50] }, // runs what the one before left
          { ...base, away: 8, awayLens: [70] },
          { ...base, topK: 1, finest: FINEST },
          { ...base, topK: 1 },
          { ...base, topK: 3 },
          { ...base, lens: [80] },
          { ...base, lens: [3, 3] },
          { ...base, schedule: schedule.slice(0, 3) },
        ];
        // Of a card the last round is enough: the first two are submitted and recorded as on the processor.
        for (let round = 0; round < 3; round++)
          for (const form of forms) {
            const request = { ...form, seed: round };
            const drawn = await recorded(request);
            if (round === 2 || kind === 'cpu') assert.deepEqual(drawn, await submitted(request), JSON.stringify(form));
          }
      });

      it('guidance of hidden states and interventions are submitted', async () => {
        for (const more of [{ guidanceLayers: [-1] }, { forced: [Uint8Array.of(1, 1, 1, 1, 1, 1)] }]) {
          if ('forced' in more && config.head !== 'softmax') continue;
          const request: Request = { lens: [6], prompt: 4, seed: 9, ...more };
          for (let round = 0; round < 3; round++) assert.deepEqual(await recorded(request), await submitted(request));
        }
      });

      it('one at a time: what comes meanwhile is submitted', async () => {
        const requests = [1, 2, 3, 4].map((seed): Request => ({ lens: [6], prompt: seed, seed }));
        const want = [];
        for (const request of requests) want.push(await submitted(request));
        for (let round = 0; round < 3; round++) assert.deepEqual(await Promise.all(requests.map(recorded)), want);
      });

      it('outlive requests that are cancelled or left early, at any moment', async () => {
        const request: Request = { lens: [6], prompt: 4, seed: 9 };
        const want = await submitted(request);
        await recorded(request);
        for (let n = 0; n < 12; n++) {
          const controller = new AbortController();
          const drawing = recorded({ ...request, seed: n, signal: controller.signal });
          for (let turn = 0; turn < n; turn++) await new Promise((resolve) => setImmediate(resolve));
          controller.abort(new Error('stop'));
          await drawing.catch((error) => assert.equal(error.message, 'stop'));
          if (n % 3 === 0) assert.deepEqual(await recorded(request), want, `after ${n} turns`);
        }
      });

      it('stay within their share of memory, and go when they are not wanted', async () => {
        const [small, none] = [new Recordings(model, 1e-9), new Recordings(model)];
        const request: Request = { lens: [6], prompt: 4, seed: 9 };
        const want = await submitted(request);
        for (let n = 0; n < 3; n++) assert.deepEqual(await draw({ ...request, recordings: small }), want);
        await device.sync();
        assert.equal(device.stats().liveTensors, tensors);
        none.dispose();
        for (let n = 0; n < 3; n++) assert.deepEqual(await draw({ ...request, recordings: none }), want);
        for (let n = 0; n < 2; n++) await recorded(request);
        assert.equal(recordings.drop(), true);
        assert.equal(recordings.drop(), false);
        assert.deepEqual(await recorded(request), want);
      });
    });

/** A network with little memory beside what its drawings take, and a request that is recorded when it comes again. */
function recordedOnce(mebibytes = 4) {
  const device = Device.create('cpu', { threads: 1, memoryLimit: mebibytes * 2 ** 20 });
  const model = placed({ device }, () => new InfinityTransformer(SMALL))
    .initialize(5)
    .freeze();
  const kv_NCt = Tensor.from(new Float32Array(6 * 128).fill(0.5), [6, 128], 'f32', device);
  const options: SampleOptions = {
    text: { kv_NCt, lens: [6] },
    schedule,
    images: [{ seed: 1, image: 0 }],
    guidance: 2,
  };
  const recordings = new Recordings(model, 1);
  const draw = async (more: Partial<SampleOptions> = {}) => {
    for await (const _ of sampleScales(model, { ...options, ...more, recordings }));
    await device.sync();
  };
  return { device, request: { model, options }, draw, recordings };
}

describe('recorded drawings', () => {
  it('that do not fit the memory are submitted', async () => {
    const device = Device.create('cpu', { threads: 1 });
    const model = placed({ device }, () => new InfinityTransformer(SMALL))
      .initialize(5)
      .freeze();
    const kv_NCt = Tensor.from(new Float32Array(6 * 128).fill(0.5), [6, 128], 'f32', device);
    const text = { kv_NCt, lens: [6] };
    const request = { text, schedule, images: [{ seed: 1, image: 0 }], guidance: 2 };
    const draw = async (recordings?: Recordings): Promise<number> => {
      device.resetPeak();
      for await (const _ of sampleScales(model, { ...request, recordings }));
      return device.stats().peakBytes;
    };
    await draw();
    const [alone, weights] = [await draw(), device.stats().liveBytes];
    const recordings = new Recordings(model);
    await draw(recordings);
    const recorded = await draw(recordings);
    recordings.dispose();
    assert.ok(recorded > alone, 'a recording keeps what every scale leaves');
    // The same with room for what is submitted alone.
    const tight = Device.create('cpu', { threads: 1, memoryLimit: alone + 4096 });
    const other = placed({ device: tight }, () => new InfinityTransformer(SMALL))
      .initialize(5)
      .freeze();
    const its = Tensor.from(new Float32Array(6 * 128).fill(0.5), [6, 128], 'f32', tight);
    const kept = new Recordings(other);
    for (let n = 0; n < 3; n++)
      for await (const _ of sampleScales(other, { ...request, text: { ...text, kv_NCt: its }, recordings: kept }));
    assert.equal(kept.drop(), false);
    assert.equal(tight.stats().liveBytes, weights);
    for (const d of [device, tight]) d.close();
  });

  it('go when others need their memory', async () => {
    const { device, request, draw, recordings } = recordedOnce();
    await draw();
    const { limitBytes, liveBytes } = device.stats();
    await draw();
    const kept = device.stats().liveBytes;
    assert.ok(kept > liveBytes, 'nothing is kept');
    // As large as what is free without the recording, less than a size class.
    const rest = Tensor.empty([Math.floor((limitBytes - liveBytes) * 0.85)], 'u8', device);
    assert.ok(limitBytes - kept < rest.bytes, 'there was room beside the recording');
    assert.equal(recordings.drop(), false);
    rest.dispose();
    // One that is in use stays.
    for (let n = 0; n < 2; n++) await draw();
    for await (const { scale } of sampleScales(request.model, { ...request.options, recordings }))
      if (scale === 0)
        assert.throws(() => Tensor.empty([limitBytes - liveBytes], 'u8', device), { code: 'OUT_OF_MEMORY' });
    assert.equal(recordings.drop(), true);
    device.close();
  });

  it('are of a bounded number of forms, those that came last', async () => {
    const { device, draw, recordings } = recordedOnce(64);
    const draws = async (forms: number) => {
      // For the bit head all of these are the same, and each is a form of its own.
      for (let topK = 2; topK < 2 + forms; topK++) for (let n = 0; n < 2; n++) await draw({ topK });
      return device.stats();
    };
    const few = await draws(32);
    const many = await draws(40);
    assert.deepEqual([many.liveTensors, many.liveBytes], [few.liveTensors, few.liveBytes]);
    const before = device.stats().commands;
    await draw({ topK: 41 });
    assert.ok(device.stats().commands - before < 40, 'the last one has gone');
    recordings.dispose();
    device.close();
  });

  it('are not made of a network that is being trained', async () => {
    const device = Device.create('cpu', { threads: 1 });
    const model = placed({ device }, () => new InfinityTransformer(SMALL)).initialize(5);
    const recordings = new Recordings(model);
    const kv_NCt = Tensor.from(new Float32Array(6 * 128).fill(0.5), [6, 128], 'f32', device);
    const options = { text: { kv_NCt, lens: [6] }, schedule, images: [{ seed: 1, image: 0 }], recordings };
    for (let n = 0; n < 3; n++) for await (const _ of sampleScales(model, options));
    assert.equal(recordings.drop(), false);
    device.close();
  });

  it('may be left when their device has gone', async () => {
    const { device, request, draw, recordings } = recordedOnce();
    for (let n = 0; n < 2; n++) await draw();
    for await (const _ of sampleScales(request.model, { ...request.options, recordings })) {
      device.close();
      break;
    }
    assert.equal(recordings.drop(), false);
    recordings.dispose();
  });
});
