import assert from 'node:assert/strict';
import { Device } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import {
  type ConvOptions,
  conv2d,
  type PackedConv,
  packConv,
  packUpsampleConv,
  upsampleConv2d,
} from '../../lib/ops/conv.js';
import { Op } from '../../lib/ops/generated.js';
import { Tape } from '../../lib/tape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { assertBf16 } from '../support/bf16.js';
import { assertClean, assertGradients, isaDevices, random, randomArray } from '../support/numeric.js';
import { assertProducts } from '../support/products.js';

const same = { padding: 1 };
/** The official Downsample: one zero right and below, stride 2. */
const down = { stride: 2, padding: { top: 0, left: 0, bottom: 1, right: 1 } };

/** [x, w, options]: kernels, strides, paddings and channel counts that occur, at sizes that fit no tile. */
const cases: [number[], number[], ConvOptions][] = [
  [[1, 1, 1, 1], [1, 1, 1, 1], {}],
  [[2, 5, 7, 3], [16, 3, 3, 3], same],
  [[1, 9, 8, 32], [33, 32, 3, 3], same],
  [[2, 6, 5, 31], [3, 31, 3, 3], same],
  [[1, 4, 3, 130], [24, 130, 3, 3], same],
  [[3, 5, 4, 20], [35, 20, 1, 1], {}],
  [[2, 8, 6, 18], [17, 18, 3, 3], down],
  [[1, 7, 9, 5], [6, 5, 3, 3], down],
  [[2, 9, 8, 7], [10, 7, 4, 4], { stride: 2, padding: 1 }],
  [[1, 6, 7, 4], [5, 4, 3, 2], { stride: 3, padding: { top: 2, left: 0, bottom: 1, right: 3 } }],
  [[1, 5, 5, 2], [3, 2, 1, 1], { stride: 2 }],
  [[1, 8, 8, 2], [3, 2, 8, 8], {}],
];
/** Channels of whole chunks, at sizes for the large tiles of a card. */
const wholeChunks: typeof cases = [
  [[2, 6, 5, 16], [24, 16, 3, 3], same],
  [[1, 24, 23, 8], [256, 8, 3, 3], same],
  [[1, 12, 14, 16], [136, 16, 3, 3], down],
  [[1, 40, 40, 16], [3, 16, 3, 3], same],
];
const upsampled: [number[], number[]][] = [
  [
    [1, 1, 1, 1],
    [1, 1, 3, 3],
  ],
  [
    [2, 3, 5, 7],
    [17, 7, 3, 3],
  ],
  [
    [1, 6, 4, 33],
    [32, 33, 3, 3],
  ],
];

async function floats(make: () => Tensor): Promise<Float32Array | Float64Array> {
  const t = scope(make);
  const data = await t.readFloats();
  t.dispose();
  return data;
}

type Conv = (x: Tensor, w: Tensor, b?: Tensor) => Tensor;

/** Gradients of all three inputs for a given cotangent. */
function gradients(conv: Conv, x: Tensor, w: Tensor, b: Tensor, gy: Tensor): Tensor[] {
  const tape = new Tape().watch(x, w, b);
  const y = tape.run(() => conv(x, w, b));
  const grads = tape.backward([{ of: y, cotangent: gy }]);
  return [x, w, b].map((t) => grads.get(t)!);
}

/** Forward and gradients against f64; the cotangent needs the shape of the output. */
async function assertConv(device: Device, conv: Conv, x: number[], w: number[]): Promise<void> {
  const what = `${x} * ${w}`;
  const out = scope(() => [...conv(random(device, 1, x), random(device, 2, w)).shape]);
  await assertProducts(device, (x, w) => conv(x!, w!), [x, w], what);
  await assertProducts(device, (x, w, b) => conv(x!, w!, b), [x, w, [w[0]!]], what);
  await assertProducts(device, (x, w, b, gy) => gradients(conv, x!, w!, b!, gy!), [x, w, [w[0]!], out], what);
}

for (const [isa, device] of isaDevices()) {
  describe(`convolution on ${isa}`, () => {
    it('conv2d and its gradients equal f64', async () => {
      for (const [x, w, options] of cases) await assertConv(device, (x, w, b) => conv2d(x, w, b, options), x, w);
    });
    it('upsampleConv2d and its gradients equal f64', async () => {
      for (const [x, w] of upsampled) await assertConv(device, upsampleConv2d, x, w);
    });
    it('sums over many pixels equal f64, cut into segments or not', async () => {
      for (const size of [20, 80])
        await assertConv(device, (x, w, b) => conv2d(x, w, b, same), [1, size, size + 1, 2], [3, 2, 3, 3]);
      await assertConv(device, upsampleConv2d, [2, 60, 61, 2], [1, 2, 3, 3]);
    });
    it('bf16: within twice the rounding of the exact result, gradients of weights in f32', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor computes in f32 and f64
      const sizes = [...cases, ...wholeChunks];
      for (const [x, w, options] of sizes) {
        const { stride = 1, padding = 0 } = options;
        const { top, left } = typeof padding === 'number' ? { top: padding, left: padding } : padding;
        const y = scope(() => [...conv2d(random(device, 1, x), random(device, 2, w), null, options).shape]);
        const params = [w[2]!, w[3]!, stride, top, left];
        await assertBf16(device, Op.conv2d, [x, w, [w[0]!]], [y], { params });
        await assertBf16(device, Op.conv2dBackwardInput, [y, w], [x], { params });
        await assertBf16(device, Op.conv2dBackwardWeight, [y, x], [w, [w[0]!]], { params, result: 'f32' });
      }
      for (const [x, w] of [
        ...upsampled,
        [
          [1, 6, 8, 16],
          [24, 16, 3, 3],
        ] as const,
      ]) {
        const y = [x[0]!, 2 * x[1]!, 2 * x[2]!, w[0]!];
        // Sums of two or four weights are rounded to bf16 once more: in all twice the rounding of the largest result.
        const tolerance = 2 ** -8;
        await assertBf16(device, Op.upsampleConv2d, [[...x], [...w], [w[0]!]], [y], { tolerance });
        await assertBf16(device, Op.upsampleConv2dBackwardInput, [y, [...w]], [[...x]], { tolerance });
        await assertBf16(device, Op.upsampleConv2dBackwardWeight, [y, [...x]], [[...w], [w[0]!]], { result: 'f32' });
      }
    });
    it('gradients equal finite differences', async () => {
      for (const options of [same, down, { stride: 3, padding: 2 }])
        await assertGradients(device, (x, w, b) => conv2d(x!, w!, b, options), [[1, 4, 5, 2], [3, 2, 3, 3], [3]]);
      await assertGradients(device, (x, w, b) => upsampleConv2d(x!, w!, b), [[1, 2, 3, 2], [2, 2, 3, 3], [2]]);
    });

    it('packed weights give the same bits, and in bf16 the bits of rounded weights', async () => {
      const live = device.stats().liveTensors;
      const [x, w] = [random(device, 1, [2, 5, 6, 19]), random(device, 2, [37, 19, 3, 3])];
      // Whole numbers up to 31: bf16 holds them and the sums of four that upsampling makes.
      const whole = Float32Array.from(randomArray(4, w.size, 31), Math.trunc);
      const wide = Tensor.from(whole, w.shape, 'f32', device);
      const raw = Uint16Array.from(new Uint32Array(whole.buffer), (bits) => bits >>> 16);
      const half = Tensor.from(raw, w.shape, 'bf16', device);
      const convs = [
        { run: (k: Tensor | PackedConv) => conv2d(x, k, null, same), pack: packConv },
        { run: (k: Tensor | PackedConv) => upsampleConv2d(x, k), pack: packUpsampleConv },
      ];
      for (const { run, pack } of convs) {
        const [packed, packedHalf] = [pack(w), pack(wide, { dtype: 'bf16' })];
        assert.deepEqual(await floats(() => run(packed)), await floats(() => run(w)));
        assert.deepEqual(await floats(() => run(packedHalf)), await floats(() => run(wide)));
        assert.deepEqual(await floats(() => run(half)), await floats(() => run(wide)));
        packed.dispose();
        packedHalf.dispose();
      }
      for (const t of [x, w, half, wide]) t.dispose();
      await assertClean(device, live);
    });

    it('a picture gives the same bits alone, in a batch, and on any number of threads', async () => {
      const one = device.kind === 'cpu' ? Device.create('cpu', { isa, threads: 1 }) : null;
      const convs: [Conv, number][] = [
        [(x, w, b) => conv2d(x, w, b, same), 7 * 9],
        [(x, w, b) => conv2d(x, w, b, down), 3 * 4],
        [upsampleConv2d, 4 * 7 * 9],
      ];
      for (const [conv, pixels] of convs) {
        const results = [];
        for (const d of [device, one ?? device]) {
          const [x, w, b] = [random(d, 1, [5, 7, 9, 33]), random(d, 2, [45, 33, 3, 3]), random(d, 3, [45])];
          const whole = await floats(() => conv(x, w, b));
          for (const image of [0, 3]) {
            const alone = await floats(() => conv(x.view([1, 7, 9, 33], image * 7 * 9 * 33), w, b));
            assert.deepEqual(alone, whole.slice(image * pixels * 45, (image + 1) * pixels * 45));
          }
          const gy = random(d, 4, [5, ...(conv === upsampleConv2d ? [14, 18] : pixels === 63 ? [7, 9] : [3, 4]), 45]);
          const grads = gradients(conv, x, w, b, gy);
          results.push([whole, ...(await Promise.all(grads.map((g) => g.readFloats())))]);
          for (const t of [x, w, b, gy, ...grads]) t.dispose();
        }
        assert.deepEqual(results[0], results[1]);
      }
      one?.close();
    });
  });
}

describe('convolution', () => {
  it('refuses what does not fit, by name', () => {
    const code = (wanted: string) => (e: unknown) => e instanceof InfinityError && e.code === wanted;
    scope(() => {
      const x = Tensor.from(new Float32Array(32), [1, 4, 4, 2]);
      const w = Tensor.from(new Float32Array(18), [1, 2, 3, 3]);
      const big = Tensor.from(new Float32Array(162), [1, 2, 9, 9]);
      assert.throws(() => conv2d(x, Tensor.from(new Float32Array(27), [1, 3, 3, 3])), code('INVALID_SHAPE'));
      assert.throws(() => conv2d(x, big, null, { padding: 4 }), code('INVALID_SHAPE'));
      assert.throws(() => conv2d(x, w, null, { stride: 0 }), code('INVALID_ARGUMENT'));
      assert.throws(() => conv2d(x, w, null, { padding: -1 }), code('INVALID_ARGUMENT'));
      assert.throws(() => conv2d(x, w, x), code('INVALID_SHAPE'));
      assert.throws(() => upsampleConv2d(x, Tensor.from(new Float32Array(2), [1, 2, 1, 1])), code('INVALID_SHAPE'));
      const packed = packConv(w);
      assert.throws(() => upsampleConv2d(x, packed), code('INVALID_SHAPE'));
      assert.throws(() => new Tape().watch(x).run(() => conv2d(x, packed)), code('NOT_DIFFERENTIABLE'));
    });
  });
});
