import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { add } from '../../lib/ops/elementwise.js';
import { fill, writeSlice } from '../../lib/ops/shape.js';
import { Program } from '../../lib/program.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { CUDA } from '../support/numeric.js';

const MIB = 2 ** 20;

/** A card of `bytes`, of which tensors may take `memoryLimit`. Only the emulation's memory can be chosen. */
function cardOf(bytes: number, memoryLimit?: number): Device {
  const before = process.env.SIMT_MEMORY;
  process.env.SIMT_MEMORY = String(bytes);
  try {
    return Device.create('cuda', memoryLimit ? { memoryLimit } : {});
  } finally {
    if (before === undefined) delete process.env.SIMT_MEMORY;
    else process.env.SIMT_MEMORY = before;
  }
}

/** Zeros that take `bytes`. */
const zeros = (device: Device, bytes: number): Tensor => fill([bytes / 4], 0, 'f32', device);

/** Bytes needed and free, from the error that a tensor of `bytes` throws. */
function refusal(device: Device, bytes: number): { needed: number; free: number } {
  let found: unknown;
  assert.throws(
    () => zeros(device, bytes),
    (error: { code?: string; message?: string; fields?: unknown }) => {
      found = error.fields;
      assert.equal(error.code, 'OUT_OF_MEMORY');
      assert.match(error.message ?? '', new RegExp(`${bytes} bytes`));
      return true;
    },
  );
  return found as { needed: number; free: number };
}

describe(`memory on ${CUDA}`, () => {
  before(function () {
    if (!process.env.NODE_INFINITY_CUDA_LIBRARY) this.skip(); // needs NODE_INFINITY_CUDA_LIBRARY
  });

  it('throws OUT_OF_MEMORY with the bytes needed and free at the limit, and goes on', async () => {
    const device = cardOf(2048 * MIB, 8 * MIB);
    const held = zeros(device, 4 * MIB);
    const { needed, free } = refusal(device, 8 * MIB);
    assert.equal(needed, 8 * MIB);
    assert.equal(free, 4 * MIB);
    held.dispose();
    const again = zeros(device, 8 * MIB);
    assert.deepEqual([...(await again.readFloats())].slice(0, 3), [0, 0, 0]);
    device.close();
  });

  it('takes released memory of another size, without waiting for a read, when the limit is met', async () => {
    const device = cardOf(2048 * MIB, 8 * MIB);
    for (const mib of [3, 5, 6, 7, 4]) zeros(device, mib * MIB).dispose();
    const { liveBytes, cachedBytes } = device.stats();
    assert.equal(liveBytes, 0);
    assert.ok(cachedBytes <= 8 * MIB, `${cachedBytes} bytes are kept`);
    device.close();
  });

  describe('that is smaller than the limit', () => {
    before(function () {
      if (CUDA === 'cuda') this.skip(); // a card's memory cannot be chosen
    });

    it('is 95 % of the card without a limit', () => {
      const device = cardOf(100 * MIB);
      assert.equal(device.stats().limitBytes, 95 * MIB);
      device.close();
    });

    it('gives back what is kept before it refuses, and tells what the card has left', () => {
      const device = cardOf(16 * MIB, 1024 * MIB);
      zeros(device, 8 * MIB).dispose(); // 8 MiB are kept
      const large = zeros(device, 12 * MIB); // 12 MiB: only if those go back
      const { needed, free } = refusal(device, 5 * MIB);
      assert.deepEqual({ needed, free }, { needed: 5 * MIB, free: 4 * MIB });
      large.dispose();
      zeros(device, 16 * MIB).dispose();
      device.close();
    });

    it('runs programs once a run even where nothing is left to record them with', async () => {
      const device = cardOf(4096, MIB);
      const x = Tensor.from(new Float32Array(16).fill(3), [16], 'f32', device);
      const program = new Program(device);
      program.record(() => scope(() => writeSlice(x, add(x, x), 0, 0)));
      for (let left = 4096 - 128, bytes = 2048; left > 0; left -= bytes, bytes /= 2) zeros(device, bytes);
      refusal(device, 64);
      for (let run = 0; run < 3; run++) program.run();
      assert.deepEqual(await x.readFloats(), new Float32Array(16).fill(24));
      device.close();
    });
  });
});
