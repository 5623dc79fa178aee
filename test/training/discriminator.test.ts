import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { type HostTensor, placed } from '../../lib/nn/module.js';
import { groupNorm } from '../../lib/ops/norm.js';
import { reshape } from '../../lib/ops/shape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { Adversary } from '../../lib/training/adversary.js';
import { discriminatorLoss, PatchDiscriminator, smallestSide } from '../../lib/training/discriminator.js';
import { assertDirections } from '../support/directions.js';
import { assertGradients, isaDevices, randomArray } from '../support/numeric.js';
import { batchNorm, convolve, map, type Plain, pictures } from '../support/plain_convnet.js';

const SHAPE = [2, 14, 12, 3];
const SIZE = 2 * 14 * 12 * 3;
const [real, fake] = [randomArray(1, SIZE), randomArray(2, SIZE)];

/** A state dict of two layers over three channels; norms with gains and shifts of their own. */
function weights(seed: number): Map<string, HostTensor> {
  using network = new PatchDiscriminator({ base_ch: 3, layers: 2 });
  const shapes = [...network.stateShapes()];
  return new Map(
    shapes.map(([name, shape], i) => [
      name,
      {
        shape,
        data: Float32Array.from(
          randomArray(
            seed + i,
            shape.reduce((a, b) => a * b),
            0.5,
          ),
        ),
      },
    ]),
  );
}

/** The official sequence: 0 conv, 1 activation, 2 conv, 3 norm, 4 activation, 5 conv, 6 norm, 7 activation, 8 conv. */
function plainScores(batch: readonly Plain[], state: ReadonlyMap<string, HostTensor>): number[] {
  const of = (name: string): Float32Array | undefined => state.get(`main.${name}`)?.data;
  const conv = (ps: readonly Plain[], at: number, stride: number): Plain[] =>
    ps.map((p) => {
      const outputs = state.get(`main.${at}.weight`)!.shape[0]!;
      return convolve(p, of(`${at}.weight`)!, of(`${at}.bias`), { outputs, kernel: 4, stride });
    });
  const leaky = (ps: readonly Plain[]): Plain[] => ps.map((p) => map(p, (v) => (v > 0 ? v : 0.2 * v)));
  const norm = (ps: readonly Plain[], at: number): Plain[] =>
    batchNorm(ps, of(`${at}.norm.weight`)!, of(`${at}.norm.bias`)!);
  let x = leaky(conv(batch, 0, 2));
  x = leaky(norm(conv(x, 2, 2), 3));
  x = leaky(norm(conv(x, 5, 1), 6));
  return conv(x, 8, 1).flatMap(({ data }) => [...(data as Float64Array)]);
}

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b) / values.length;

describe('the patch discriminator', () => {
  it('has the published shape', () => {
    using network = new PatchDiscriminator({ base_ch: 128, layers: 3 });
    assert.deepEqual([...network.stateShapes()].map(([name, shape]) => `${name} ${shape.join('x')}`).sort(), [
      'main.0.bias 128',
      'main.0.weight 128x3x4x4',
      'main.11.bias 1',
      'main.11.weight 1x1024x4x4',
      'main.2.weight 256x128x4x4',
      'main.3.norm.bias 256',
      'main.3.norm.weight 256',
      'main.5.weight 512x256x4x4',
      'main.6.norm.bias 512',
      'main.6.norm.weight 512',
      'main.8.weight 1024x512x4x4',
      'main.9.norm.bias 1024',
      'main.9.norm.weight 1024',
    ]);
    using wide = new PatchDiscriminator({ base_ch: 2, layers: 5 });
    assert.deepEqual(wide.stateShapes().get('main.14.weight'), [16, 16, 4, 4]);
  });

  for (const [isa, device] of isaDevices()) {
    it(`scores as plain loops do, with the statistics of the batch, on ${isa}`, async () => {
      const state = weights(5);
      const want = plainScores(pictures(real, SHAPE), state);
      using network = placed({ device }, () => new PatchDiscriminator({ base_ch: 3, layers: 2 })).load(state);
      const scores = scope(() => network.forward(Tensor.from(real, SHAPE, 'f32', device)));
      const got = await scores.readFloats();
      assert.deepEqual(scores.shape, [2, 1, 1, 1]);
      scores.dispose();
      for (const [i, v] of got.entries()) assert.ok(Math.abs(v - want[i]!) < 1e-5, `${v} ${want[i]}`);
    });

    it(`batch norm has the gradients of finite differences on ${isa}`, async () => {
      const shape = [2, 3, 4, 33];
      const batchNormOf = (x: Tensor, w: Tensor, b: Tensor): Tensor =>
        reshape(groupNorm(reshape(x, [1, 24, 1, 33]), w, b, 33, 1e-5), shape);
      await assertGradients(device, batchNormOf, [shape, [33], [33]]);
    });
  }

  it('takes pictures down to the smallest side', async () => {
    for (const layers of [1, 2, 3]) {
      using network = new PatchDiscriminator({ base_ch: 1, layers }).initialize(1);
      const side = smallestSide(layers);
      using least = Tensor.from(new Float32Array(side * side * 3), [1, side, side, 3]);
      const scores = scope(() => network.forward(least));
      assert.deepEqual(scores.shape, [1, 1, 1, 1]);
      scores.dispose();
      using less = Tensor.from(new Float32Array((side - 1) * side * 3), [1, side - 1, side, 3]);
      assert.throws(() => scope(() => network.forward(less)), /conv2d/);
    }
  });

  it('loss is hinge plus LeCam', async () => {
    for (const [scale, lecam] of [
      [1, 0],
      [3, 0.05],
      [0.1, 0.5],
    ] as const) {
      const [r, f] = [randomArray(3, 21, scale).map((v) => v + 0.3 * scale), randomArray(4, 21, scale)];
      using loss = scope(() => discriminatorLoss(Tensor.from(r, [21], 'f64'), Tensor.from(f, [21], 'f64'), lecam));
      const hinge = 0.5 * (mean([...r].map((v) => Math.max(0, 1 - v))) + mean([...f].map((v) => Math.max(0, 1 + v))));
      const drift = [r, f].map((s) => Math.max(0, Math.abs(mean([...s])) - Math.fround(0.1)) ** 2);
      const want = hinge + Math.fround(lecam) * (drift[0]! + drift[1]!);
      const [got] = await loss.readFloats();
      assert.ok(Math.abs(got! - want) < 1e-12, `${got} ${want}`);
    }
  });

  it('and its loss have the gradients that directional differences have', async () => {
    using network = placed({ dtype: 'f64' }, () => new PatchDiscriminator({ base_ch: 3, layers: 2 })).load(weights(5));
    using x = Tensor.from(real, SHAPE, 'f64');
    using y = Tensor.from(fake, SHAPE, 'f64');
    const parameters = [...network.namedParameters()].map(([, t]) => t);
    await assertDirections([x, y, ...parameters], () => discriminatorLoss(network.forward(x), network.forward(y), 0.5));
  });

  it('learns from its start on, and only decays before', async () => {
    const config = { base_ch: 3, layers: 2, weight: 0.3, start: 1, lr_multiplier: 2, lecam: 0.05 };
    const device = Device.default();
    const live = device.stats().liveTensors;
    const adversary = await Adversary.create(config, { device, seed: 1, betas: [0.9, 0.95], clip: 1 });
    assert.deepEqual([adversary.active(0), adversary.active(1)], [false, true]);
    const read = async (): Promise<number[]> =>
      (await Promise.all([...adversary.weights()].map(async ([, t]) => [...(await t.readFloats())]))).flat();
    const before = await read();
    const rates = { lr: 0.25, weightDecay: 0.5 };
    adversary.rest(rates);
    const rested = await read();
    // 1 - 2 · 0.25 · 0.5, of vectors and biases too.
    assert.deepEqual(
      rested,
      before.map((v) => Math.fround(v * 0.75)),
    );
    assert.equal(adversary.optimizer.step, 1);
    {
      using x = Tensor.from(real, SHAPE, 'f32');
      using y = Tensor.from(fake, SHAPE, 'f32');
      const losses: number[] = [];
      for (let i = 0; i < 12; i++) {
        const { loss, norm } = adversary.step(x, y, { lr: 0.005, weightDecay: 0 });
        losses.push((await loss.readFloats())[0]!);
        loss.dispose();
        norm.dispose();
      }
      assert.ok(losses.at(-1)! < 0.8 * losses[0]!, losses.join(' '));
    }
    adversary.dispose();
    assert.equal(device.stats().liveTensors, live);
  });
});
