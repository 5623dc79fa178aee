import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { Gradients } from '../../lib/tape.js';
import { Tensor } from '../../lib/tensor.js';
import { AdamW } from '../../lib/training/optimizer.js';

const rates = { lr: 0.1, weightDecay: 0.5 };

describe('AdamW over named parameters', () => {
  const device = Device.default();
  const filled = (value: number, shape: number[]): Tensor =>
    Tensor.from(new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(value), shape, 'f32', device);

  /** `count` matrices and as many biases of ones, with gradients of `gradient(i)`; undefined: none. */
  async function optimizer(count: number, gradient: (i: number) => number | undefined, emaDecay?: number) {
    const parameters = Array.from({ length: 2 * count }, (_, i): [string, Tensor] =>
      i % 2 === 0 ? [`block.${i}.weight`, filled(1, [3, 5])] : [`block.${i}.bias`, filled(1, [7])],
    );
    const grads = new Map<number, Tensor>();
    for (const [i, [, p]] of parameters.entries()) {
      const value = gradient(i);
      if (value !== undefined) grads.set(p.id, filled(value, [...p.shape]));
    }
    const adamw = await AdamW.create(parameters, { betas: [0.9, 0.97], clip: 1e9, ...(emaDecay && { emaDecay }) });
    const dispose = (): void => {
      adamw.dispose();
      for (const [, t] of parameters) t.dispose();
      for (const t of grads.values()) t.dispose();
    };
    const firstOf = async (i: number): Promise<number> => (await parameters[i]![1].readFloats())[0]!;
    return { adamw, grads: new Gradients(grads), parameters, firstOf, dispose };
  }

  it('only matrices decay; a parameter without a gradient stays, and its average follows it', async () => {
    const { adamw, grads, parameters, firstOf, dispose } = await optimizer(2, (i) => (i < 2 ? 0 : undefined), 0.5);
    adamw.averages().get(parameters[3]![0])!.write(new Float32Array(7).fill(3));
    adamw.update(grads, rates).dispose();
    assert.deepEqual(await Promise.all([0, 1, 2, 3].map(firstOf)), [Math.fround(0.95), 1, 1, 1]);
    const averages = await Promise.all([...adamw.averages().values()].map(async (t) => (await t.readFloats())[0]!));
    // The first decay is 2 / 11.
    for (const [i, want] of [1 - (0.05 * 9) / 11, 1, 1, 1 + (2 * 2) / 11].entries())
      assert.ok(Math.abs(averages[i]! - want) < 1e-6, `${i}: ${averages[i]} ${want}`);
    dispose();
  });

  it('a step of many parameters is a few commands, clips by the norm of all, and names what is not finite', async () => {
    const { adamw, grads, dispose } = await optimizer(100, (i) => (i === 17 || i === 150 ? Number.NaN : 2));
    await device.sync();
    const before = device.stats().commands;
    const norm = adamw.update(grads, rates);
    await device.sync();
    // Sums of squares, factor, two groups; the wait for the device.
    assert.equal(device.stats().commands - before, 1 + 1 + 2 * 2 + 1);
    assert.ok(Number.isNaN((await norm.readFloats())[0]));
    assert.deepEqual(await adamw.notFiniteGradient(), { name: 'block.150.weight', others: 1 });
    norm.dispose();
    dispose();
  });

  it('gives the norm before clipping; nothing to update is refused', async () => {
    const { adamw, grads, dispose } = await optimizer(50, () => 2);
    const norm = adamw.update(grads, rates);
    assert.ok(Math.abs((await norm.readFloats())[0]! - 2 * Math.sqrt(50 * 22)) < 1e-4);
    assert.equal(await adamw.notFiniteGradient(), undefined);
    norm.dispose();
    assert.throws(() => adamw.update(new Gradients(new Map()), rates), { code: 'INVALID_ARGUMENT' });
    dispose();
  });
});
