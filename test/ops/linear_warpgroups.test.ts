import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import { Op } from '../../lib/ops/generated.js';
import { run } from '../../lib/ops/run.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { assertBf16, assertMixed16, measure, randomBf16, stored, toBf16 } from '../support/bf16.js';
import { assertClean, CUDA, randomArray } from '../support/numeric.js';

/** A guarded card of compute capability 9.0 on which all products that can go by warpgroups do; null where there is none. */
function hopper(): Device | null {
  const before = { ...process.env };
  Object.assign(process.env, { NODE_INFINITY_DEBUG: 'guard', SIMT_ARCHITECTURE: '90' });
  try {
    return Device.create('cuda', { products: 'warpgroups', memoryLimit: 2 ** 31 });
  } catch (error) {
    if (error instanceof InfinityError && error.code === 'DEVICE_UNAVAILABLE') return null;
    throw error;
  } finally {
    for (const name of ['NODE_INFINITY_DEBUG', 'SIMT_ARCHITECTURE']) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
  }
}

/** What went another way than `warpgroups`. */
const elsewhere = (device: Device): string[] => device.decisions().filter((line) => !line.includes(': warpgroups ('));

describe(`linear by warpgroups on ${CUDA}`, () => {
  let device: Device;
  before(function () {
    const found = process.env.NODE_INFINITY_CUDA_LIBRARY ? hopper() : null;
    if (!found) this.skip(); // there is no card of compute capability 9.0, and no emulation of one
    device = found;
  });
  after(() => device?.close());

  it('equals f64 within the rounding of bf16, with every part of the epilogue', async () => {
    // One row; ragged edges of every tile; a ring that goes round; more tiles than blocks.
    for (const [M, N, K] of [
      [1, 8, 8],
      [3, 104, 520],
      [130, 264, 40],
      [67, 72, 840],
      [300, 520, 72],
    ] as const) {
      const [x, w, bias] = [stored(M, K), stored(N, K), measure([N], randomArray(3, N))];
      const [onto, gate] = [stored(M, N), stored(1, N)];
      const y = [stored(M, N)];
      await assertMixed16(device, Op.linear, [x, w, null, null, null], y, { params: [0] });
      await assertMixed16(device, Op.linear, [x, w, bias, null, null], y, { params: [1] });
      await assertMixed16(device, Op.linear, [x, w, null, onto, null], y, { params: [0] });
      await assertMixed16(device, Op.linear, [x, w, stored(N), onto, gate], y, { params: [1] });
      const onFloats = [x, w, bias, measure([M, N], randomArray(4, M * N)), gate];
      await assertMixed16(device, Op.linear, onFloats, [measure([M, N])], { params: [0] });
    }
    assert.deepEqual(elsewhere(device), []);
  });

  it('a gate serves the rows of its group', async () => {
    const operands = [stored(150, 72), stored(136, 72), null, stored(150, 136), stored(3, 136)];
    await assertMixed16(device, Op.linear, operands, [stored(150, 136)], { params: [0] });
  });

  it('gradients equal f64, sums of rows and sums in pieces among them', async () => {
    for (const [M, N, K] of [
      [1, 8, 16],
      [40, 136, 264],
      [300, 72, 8],
      [1160, 24, 136],
    ] as const) {
      const input = [
        [M, N],
        [N, K],
      ];
      await assertBf16(device, Op.linearBackwardInput, input, [[M, K]]);
      const weight = [
        [M, N],
        [M, K],
      ];
      // A tensor core may drop what is below the last place of the larger summand, once in sixteen terms.
      const tolerance = 2 ** -23 * (4 + M / 16);
      await assertBf16(device, Op.linearBackwardWeight, weight, [[N, K], [N]], { result: 'f32', tolerance });
    }
    assert.deepEqual(elsewhere(device), []);
  });

  it('a row gives the same bits alone and in a batch, whichever tile is taken', async () => {
    const [M, N, K] = [700, 520, 72];
    const live = device.stats().liveTensors;
    const x = Tensor.from(toBf16(randomBf16(1, M * K)), [M, K], 'bf16', device);
    const w = Tensor.from(toBf16(randomBf16(2, N * K)), [N, K], 'bf16', device);
    const product = async (rows: number, first: number): Promise<Float32Array | Float64Array> => {
      const y = scope(() => {
        const operands = [x.view([rows, K], first * K), w, null, null, null];
        return run(Op.linear, operands, [{ dtype: 'f32', shape: [rows, N] }], [0])[0]!;
      });
      const data = await y.readFloats();
      y.dispose();
      return data;
    };
    const whole = await product(M, 0);
    for (const [rows, first] of [
      [1, 0],
      [1, 699],
      [70, 200],
    ] as const)
      assert.deepEqual(await product(rows, first), whole.slice(first * N, (first + rows) * N));
    for (const t of [x, w]) t.dispose();
    await assertClean(device, live);
  });

  it('leaves to fragments what copies cannot reach, and says so', async () => {
    const [before, odd] = [device.decisions().length, [stored(5, 12), stored(16, 12), null, null, null]];
    await assertMixed16(device, Op.linear, odd, [stored(5, 16)], { params: [0] });
    await assertMixed16(device, Op.linear, [stored(5, 16), stored(16, 16), null, null, null], [stored(5, 16)], {
      params: [0],
    });
    assert.equal(device.decisions().length, before + 2);
    assert.deepEqual(elsewhere(device), [
      'linear 5x16x12, bf16 x bf16 to bf16, not aligned: fragments (not for warpgroups)',
    ]);
  });
});
