import assert from 'node:assert/strict';
import { Device, type DeviceOptions } from '../../lib/device.js';
import { linear } from '../../lib/ops/linear.js';
import { type Shape, scope, sizeOf, Tensor } from '../../lib/tensor.js';
import { toBf16 } from '../support/bf16.js';
import { CUDA, random, randomArray } from '../support/numeric.js';

const EMULATED = CUDA.includes('emulated');

const bf16 = (device: Device, seed: number, shape: Shape): Tensor =>
  Tensor.from(toBf16(randomArray(seed, sizeOf(shape))), shape, 'bf16', device);

/** What `device` decided after one product [8, 32] · [16, 32]ᵀ with a bias, in f32 and in bf16. */
async function decided(device: Device): Promise<string[]> {
  scope(() => {
    linear(random(device, 1, [8, 32]), random(device, 2, [16, 32]), random(device, 3, [16]));
    linear(bf16(device, 1, [8, 32]), bf16(device, 2, [16, 32]), random(device, 3, [16]));
  });
  await device.sync();
  return device.decisions();
}

function opened(options: DeviceOptions, use: (device: Device) => Promise<void>): Promise<void> {
  const device = Device.create('cuda', { memoryLimit: 2 ** 24, ...options });
  return use(device).finally(() => device.close());
}

describe('the ways of matrix products', () => {
  it('are of no concern to the processor', async () => {
    const device = Device.create('cpu', { deterministic: false, threads: 1 });
    scope(() => linear(random(device, 1, [8, 32]), random(device, 2, [16, 32])));
    await device.sync();
    assert.deepEqual(device.decisions(), []);
    device.close();
  });

  it('refuse what is not true or false', () => {
    assert.throws(() => Device.create('cpu', { deterministic: 1 as unknown as boolean }), {
      code: 'INVALID_ARGUMENT',
      message: /true or false for deterministic but received 1/,
    });
  });

  describe(`on ${CUDA}`, () => {
    before(function () {
      if (!process.env.NODE_INFINITY_CUDA_LIBRARY) this.skip(); // names no backend
    });

    it('are decided by rule, once for each description', () =>
      opened({}, async (device) => {
        const lines = [
          'linear 8x16x32, f32 x f32 to f32, bias f32: fragments (by rule)',
          'linear 8x16x32, bf16 x bf16 to bf16, bias f32: fragments (by rule)',
        ];
        assert.deepEqual(await decided(device), lines);
        assert.deepEqual(await decided(device), lines);
      }));

    it('are measured where the device need not be deterministic', () =>
      opened({ deterministic: false }, async (device) => {
        const lines = await decided(device);
        assert.equal(lines.length, 2);
        for (const line of lines) assert.match(line, /: fragments \(fragments \d+\.\d{4} ms\)$/);
      }));

    it('are refused where they are not to be had', () => {
      const products = 'sideways' as 'fragments';
      assert.throws(() => Device.create('cuda', { products }), { code: 'INVALID_ARGUMENT', message: /'sideways'/ });
      if (EMULATED)
        assert.throws(() => Device.create('cuda', { products: 'warpgroups' }), { code: 'DEVICE_UNAVAILABLE' });
    });
  });
});
