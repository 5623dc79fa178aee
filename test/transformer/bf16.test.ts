import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { placed } from '../../lib/nn/module.js';
import { Tape } from '../../lib/tape.js';
import { Tensor } from '../../lib/tensor.js';
import { type ScaleSchedule, tokenCount } from '../../lib/tokenizer/schedule.js';
import { AdamW } from '../../lib/training/optimizer.js';
import { type InfinityConfig, officialInfinityConfig } from '../../lib/transformer/config.js';
import { InfinityTransformer } from '../../lib/transformer/infinity.js';
import { sampleScales } from '../../lib/transformer/sampler.js';
import { CUDA, isaDevice, randomArray, randomLabels } from '../support/numeric.js';

const SCHEDULE: ScaleSchedule = [
  [1, 1, 1],
  [1, 2, 2],
  [1, 3, 4],
];
const BITS = 8;
const LENS = [3, 5];

const config = (overrides: Partial<InfinityConfig> = {}): InfinityConfig =>
  officialInfinityConfig('infinity_layer12', {
    embed_dim: 64,
    depth: 2,
    num_heads: 2,
    block_chunks: 1,
    text_channels: 128,
    text_maxlen: 8,
    vae_embed_dim: BITS,
    scale_schedules: [SCHEDULE],
    ...overrides,
  });

const OPTIONS: readonly Partial<InfinityConfig>[] = [
  {},
  { shared_aln: false, cross_attn_layer_scale: 0.5, drop_path_rate: 0.2 },
  { rms_norm: true, swiglu: true, head_depth: 2, nm0: true, cos_attn: false },
  { head: 'softmax' },
];

/** A network and the operands of its loss, all from the same f32 numbers. */
function setUp(device: Device, dtype: 'f32' | 'f64' | 'bf16', options: InfinityConfig) {
  const wide = dtype === 'f64' ? 'f64' : 'f32';
  const L = tokenCount(SCHEDULE);
  const rows = LENS.reduce((a, b) => a + b);
  return {
    model: placed({ device, dtype }, () => new InfinityTransformer(options)).initialize(3),
    x: Tensor.from(randomArray(1, 2 * (L - 1) * BITS), [2, L - 1, BITS], wide, device),
    labels: randomLabels(2, [2, L, BITS], device),
    kv_NCt: Tensor.from(randomArray(4, rows * 128), [rows, 128], wide, device),
    one: Tensor.from([1], [], wide, device),
  };
}

const KEEP = { sa: [1, 1], ffn: [1, 0] };

async function lossAndGradients(device: Device, dtype: 'f32' | 'f64' | 'bf16', options: InfinityConfig) {
  const { model, x, labels, kv_NCt, one } = setUp(device, dtype, options);
  const parameters = [...model.namedParameters()];
  const tape = new Tape().watch(...parameters.map(([, t]) => t), kv_NCt);
  const settings = { text: { kv_NCt, lens: LENS }, schedule: SCHEDULE, reweight: true, checkpointing: true };
  const dropPath = options.drop_path_rate > 0 ? { dropPath: [KEEP, KEEP] } : {};
  const out = tape.run(() => model.loss(x, labels, { ...settings, ...dropPath }));
  const grads = tape.backward([{ of: out.loss, cotangent: one }]);
  const read = async (t: Tensor) => [...(await (grads.get(t) ?? assert.fail('no gradient')).readFloats())];
  const gradients = new Map<string, number[]>([['text', await read(kv_NCt)]]);
  for (const [name, t] of parameters) gradients.set(name, await read(t));
  const types = new Set(parameters.map(([, t]) => grads.get(t)!.dtype));
  const loss = (await out.loss.readFloats())[0]!;
  grads.dispose();
  for (const t of [x, labels, kv_NCt, one, ...Object.values(out)]) t.dispose();
  model.dispose();
  return { loss, gradients, types };
}

const norm = (v: readonly number[]): number => Math.sqrt(v.reduce((sum, x) => sum + x * x, 0));

describe('a transformer in bf16', () => {
  it('is refused on the processor', () => {
    assert.throws(() => placed({ dtype: 'bf16', device: Device.default('cpu') }, () => 0), {
      code: 'UNSUPPORTED_DTYPE',
    });
  });

  describe(`on ${CUDA}`, function () {
    this.timeout(120_000);
    before(function () {
      if (!process.env.NODE_INFINITY_CUDA_LIBRARY) this.skip(); // needs NODE_INFINITY_CUDA_LIBRARY
    });

    for (const options of OPTIONS)
      it(`has loss and gradients of f64 within roundings: ${JSON.stringify(options)}`, async () => {
        const device = isaDevice(CUDA);
        const { liveTensors } = device.stats();
        const want = await lossAndGradients(isaDevice('generic'), 'f64', config(options));
        const got = await lossAndGradients(device, 'bf16', config(options));
        assert.ok(Math.abs(got.loss - want.loss) < 5e-3 * want.loss, `loss ${got.loss}, not ${want.loss}`);
        assert.deepEqual([...got.types], ['f32']);
        const all = (gradients: ReadonlyMap<string, number[]>) => [...gradients.values()].flat();
        const [g, w] = [all(got.gradients), all(want.gradients)];
        const error = norm(g.map((v, i) => v - w[i]!)) / norm(w);
        assert.ok(error < 2e-2, `gradients differ by ${error} of their length`);
        for (const [name, values] of want.gradients) {
          const length = norm(values);
          const off = norm(got.gradients.get(name)!.map((v, i) => v - values[i]!));
          assert.ok(off <= 0.1 * length + 1e-3 * norm(w), `${name}: off by ${off} of ${length}`);
        }
        assert.equal(device.stats().liveTensors, liveTensors, 'tensors leaked');
      });

    it('learns with f32 master weights', async () => {
      const device = isaDevice(CUDA);
      const { model, x, labels, kv_NCt, one } = setUp(device, 'bf16', config());
      const optimizer = await AdamW.create(model.namedParameters(), { betas: [0.9, 0.97], clip: 1 });
      const losses: number[] = [];
      for (let step = 0; step < 6; step++) {
        const tape = new Tape().watch(...optimizer.parameters);
        const out = tape.run(() =>
          model.loss(x, labels, { text: { kv_NCt, lens: LENS }, schedule: SCHEDULE, reweight: true }),
        );
        const grads = tape.backward([{ of: out.loss, cotangent: one }]);
        optimizer.update(grads, { lr: 3e-3, weightDecay: 0.01 }).dispose();
        losses.push((await out.loss.readFloats())[0]!);
        grads.dispose();
        for (const t of Object.values(out)) t.dispose();
      }
      assert.ok(losses.at(-1)! < 0.9 * losses[0]!, losses.join(' '));
      optimizer.dispose();
      for (const t of [x, labels, kv_NCt, one]) t.dispose();
      model.dispose();
    });

    it('draws nearly the bits of f32, from half the memory of keys and values', async () => {
      const device = isaDevice(CUDA);
      const { liveTensors } = device.stats();
      const draw = async (dtype: 'f32' | 'bf16') => {
        const { model, x, labels, kv_NCt, one } = setUp(device, dtype, config());
        model.freeze();
        const drawn: number[] = [];
        const images = [
          { seed: 5, image: 0 },
          { seed: 5, image: 1 },
        ];
        const text = { kv_NCt, lens: LENS };
        for await (const scale of sampleScales(model, { text, schedule: SCHEDULE, images, guidance: 3 }))
          drawn.push(...(await scale.bits.read()));
        for (const t of [x, labels, kv_NCt, one]) t.dispose();
        model.dispose();
        return drawn;
      };
      const [want, got] = [await draw('f32'), await draw('bf16')];
      const different = want.filter((bit, i) => bit !== got[i]).length;
      assert.ok(different <= want.length / 20, `${different} of ${want.length} bits differ`);
      assert.equal(device.stats().liveTensors, liveTensors, 'tensors leaked');
    });
  });
});
