import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { conv2d, packConv, packUpsampleConv, upsampleConv2d } from '../../lib/ops/conv.js';
import { convAlgorithm } from '../../lib/ops/conv_algorithm.js';
import { Op } from '../../lib/ops/generated.js';
import { run, shaped } from '../../lib/ops/run.js';
import { type Shape, scope, sizeOf, Tensor } from '../../lib/tensor.js';
import { assertClean, isaDevices, random, randomArray } from '../support/numeric.js';

type Floats = Float32Array | Float64Array;
type Conv = (x: Tensor, w: Tensor, b?: Tensor | null, dtype?: 'f32' | 'bf16') => Tensor;

/** The kernels themselves, at any size: who chooses between them and the direct ones is tested below. */
const same: Conv = (x, w, b = null, dtype = 'f32') => {
  const { packed } = packConv(w, { dtype });
  return run(Op.conv2dWinograd, [x, packed, b], [shaped(x, [...x.shape.slice(0, 3), w.shape[0]!])], [1, 1])[0]!;
};
const upsampled: Conv = (x, w, b = null, dtype = 'f32') => {
  const { packed } = packUpsampleConv(w, { dtype });
  const [B, H, W] = x.shape as [number, number, number];
  return run(Op.upsampleConv2dWinograd, [x, packed, b], [shaped(x, [B, 2 * H, 2 * W, w.shape[0]!])])[0]!;
};
const kernels: readonly [string, Conv][] = [
  ['conv2d_winograd', same],
  ['upsample_conv2d_winograd', upsampled],
];

/** [batch, rows, columns, channels, output channels], at sizes that fill no tile, no chunk, no panel and no block. */
const cases: readonly [number, number, number, number, number][] = [
  [1, 1, 1, 1, 1],
  [2, 3, 5, 3, 17],
  [1, 5, 1, 17, 3],
  [1, 31, 3, 32, 33],
  [3, 4, 8, 96, 40],
  [1, 33, 31, 16, 16],
  [2, 6, 7, 130, 35],
  [1, 3, 3, 200, 270],
];

async function floats(make: () => Tensor): Promise<Floats> {
  const t = scope(make);
  const data = await t.readFloats();
  t.dispose();
  return data;
}

/**
 * Against f64. A transformed sum mixes the pixels of a tile, so an error is held against the largest Σ|terms| of the
 * picture, by the eight roundings that test/support/products.ts allows.
 */
async function assertEqualsF64(device: Device, conv: Conv, shapes: readonly Shape[]): Promise<void> {
  const live = device.stats().liveTensors;
  const evaluate = (dtype: 'f32' | 'f64', map: (v: number) => number): Promise<Floats> =>
    floats(() => {
      const [x, w, b] = shapes.map((s, i) => Tensor.from(randomArray(1 + i, sizeOf(s)).map(map), s, dtype, device));
      return conv(x!, w!, b);
    });
  const [got, want] = [await evaluate('f32', (v) => v), await evaluate('f64', (v) => v)];
  const allowed = 2 ** -21 * Math.max(...(await evaluate('f64', Math.abs)));
  assert.equal(got.length, want.length);
  for (const [i, value] of got.entries()) {
    const error = Math.abs(value - want[i]!);
    if (!(error <= allowed)) assert.fail(`${shapes.join(' * ')} [${i}]: error ${error} above ${allowed}`);
  }
  await assertClean(device, live);
}

/** What group norm and SiLU leave: x·σ(x) of normal numbers, independent from pixel to pixel, the worst case. */
function activations(seed: number, n: number): Float32Array {
  const [u, v] = [randomArray(seed, n), randomArray(seed + 1, n)];
  return Float32Array.from(u, (a, i) => {
    const x = Math.sqrt(-2 * Math.log((a + 1) / 2 || 0.5)) * Math.cos(Math.PI * v[i]!);
    return x / (1 + Math.exp(-x));
  });
}

/** The plain sum in f32 for a 3 × 3 convolution of a picture [H, W, C]: one product after the other. */
function naive(x: Float32Array, w: Float32Array, [H, W, C]: [number, number, number], O: number): Float32Array {
  const y = new Float32Array(H * W * O);
  for (let i = 0; i < y.length; i++) {
    const [row, column, o] = [Math.floor(i / O / W), Math.floor(i / O) % W, i % O];
    let sum = 0;
    for (let t = 0; t < 9; t++) {
      const [r, c] = [row + Math.floor(t / 3) - 1, column + (t % 3) - 1];
      if (r < 0 || r >= H || c < 0 || c >= W) continue;
      const from = (r * W + c) * C;
      for (let k = 0; k < C; k++) sum = Math.fround(sum + Math.fround(x[from + k]! * w[(o * C + k) * 9 + t]!));
    }
    y[i] = sum;
  }
  return y;
}

/** Nearest ×2 of a picture [H, W, C]. */
const doubled = (x: Float32Array, W: number, C: number): Float32Array =>
  Float32Array.from({ length: 4 * x.length }, (_, i) => {
    const [row, column] = [Math.floor(i / C / (2 * W)), Math.floor(i / C) % (2 * W)];
    return x[((row >> 1) * W + (column >> 1)) * C + (i % C)]!;
  });

const rms = (got: Floats, want: Floats): number =>
  Math.sqrt(Float64Array.from(got, (v, i) => (v - want[i]!) ** 2).reduce((a, b) => a + b) / got.length);

for (const [isa, device] of isaDevices()) {
  describe(`convolution with fewer multiplications on ${isa}`, () => {
    before(function () {
      if (device.kind === 'cuda') this.skip(); // panels and their algorithms are the processor's own
    });
    for (const [name, conv] of kernels) {
      it(`${name} equals f64, with and without bias`, async () => {
        for (const [B, H, W, C, O] of cases)
          for (const bias of [[], [[O]]]) await assertEqualsF64(device, conv, [[B, H, W, C], [O, C, 3, 3], ...bias]);
      });

      it(`${name} with weights in bf16 gives the bits of rounded weights`, async () => {
        // Whole numbers up to 31: bf16 holds them and the sums of four that upsampling makes.
        const w = Tensor.from(
          Float32Array.from(randomArray(4, 40 * 70 * 9, 31), Math.trunc),
          [40, 70, 3, 3],
          'f32',
          device,
        );
        const x = random(device, 1, [1, 9, 10, 70]);
        assert.deepEqual(await floats(() => conv(x, w, null, 'bf16')), await floats(() => conv(x, w)));
        for (const t of [w, x]) t.dispose();
      });

      it(`${name} gives a picture the same bits alone, in a batch of eight, and on any number of threads`, async () => {
        const one = Device.create('cpu', { isa, threads: 1 });
        const results: Floats[] = [];
        for (const d of [device, one]) {
          const [x, w, b] = [random(d, 1, [8, 13, 18, 70]), random(d, 2, [150, 70, 3, 3]), random(d, 3, [150])];
          const whole = await floats(() => conv(x, w, b));
          for (const image of [0, 5]) {
            const alone = await floats(() => conv(x.view([1, 13, 18, 70], image * 13 * 18 * 70), w, b));
            assert.deepEqual(alone, whole.slice((image * whole.length) / 8, ((image + 1) * whole.length) / 8));
          }
          results.push(whole);
          for (const t of [x, w, b]) t.dispose();
        }
        assert.deepEqual(results[0], results[1]);
        one.close();
      });
    }

    it('is off by at most twice the rounding of the plain f32 sum', async () => {
      const [H, W, O] = [12, 16, 8];
      for (const [form, conv] of [
        ['3x3', same],
        ['upsample', upsampled],
      ] as const) {
        for (const C of [16, 48, 64, 128]) {
          if (convAlgorithm({ form, width: 64, inChannels: C }) === 'direct') continue;
          const x = activations(C, H * W * C);
          const w = Float32Array.from(randomArray(7, O * C * 9, 1 / Math.sqrt(9 * C)));
          const evaluate = (dtype: 'f32' | 'f64') =>
            floats(() =>
              conv(Tensor.from(x, [1, H, W, C], dtype, device), Tensor.from(w, [O, C, 3, 3], dtype, device)),
            );
          const [got, want] = [await evaluate('f32'), await evaluate('f64')];
          const sums = form === '3x3' ? naive(x, w, [H, W, C], O) : naive(doubled(x, W, C), w, [2 * H, 2 * W, C], O);
          const [ours, plain] = [rms(got, want), rms(sums, want)];
          assert.ok(ours > 0 && ours <= 2 * plain, `${form}, ${C} channels: rms ${ours}, of the plain sum ${plain}`);
        }
      }
    });
  });
}

describe('choice of the convolution', () => {
  const shape = { form: '3x3', width: 64, inChannels: 128 } as const;

  it('follows from the kernel, the width and the channels', () => {
    assert.equal(convAlgorithm(shape), 'winograd');
    assert.equal(convAlgorithm({ ...shape, form: 'upsample' }), 'winograd');
    assert.equal(convAlgorithm({ ...shape, form: 'other' }), 'direct');
    assert.equal(convAlgorithm({ ...shape, inChannels: 32 }), 'direct');
    assert.equal(convAlgorithm({ ...shape, width: 8 }), 'direct');
  });

  it('leaves a picture in bands of rows its bits', async () => {
    const device = Device.default();
    const [x, w] = [random(device, 1, [1, 21, 17, 64]), random(device, 2, [5, 64, 3, 3])];
    const packed = packConv(w);
    const row = 17 * 64;
    const whole = await floats(() => conv2d(x, packed, null, { padding: 1 }));
    // Rows 8 to 16 with a neighbour on both sides, then the last five rows with one above.
    for (const [begin, end, bottom] of [
      [8, 16, 0],
      [16, 21, 1],
    ] as const) {
      const rows = x.view([1, end - begin + 2 - bottom, 17, 64], (begin - 1) * row);
      const band = await floats(() => conv2d(rows, packed, null, { padding: { top: 0, left: 1, right: 1, bottom } }));
      assert.deepEqual(band, whole.slice(begin * 17 * 5, end * 17 * 5));
    }
    for (const t of [x, w, packed]) t.dispose();
  });

  it('is made by conv2d and upsampleConv2d for packed weights, never for others', async () => {
    const device = Device.default();
    const [x, w] = [random(device, 1, [1, 16, 16, 48]), random(device, 2, [16, 48, 3, 3])];
    const padding = { padding: 1 };
    const fast = await floats(() => same(x, w));
    const direct = await floats(() => conv2d(x, w, null, padding));
    assert.notDeepEqual(fast, direct);
    assert.deepEqual(await floats(() => conv2d(x, packConv(w), null, padding)), fast);
    const fastLarge = await floats(() => upsampled(x, w));
    const directLarge = await floats(() => upsampleConv2d(x, w));
    assert.notDeepEqual(fastLarge, directLarge);
    assert.deepEqual(await floats(() => upsampleConv2d(x, packUpsampleConv(w))), fastLarge);
    for (const t of [x, w]) t.dispose();
  });
});
