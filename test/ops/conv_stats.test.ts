import assert from 'node:assert/strict';
import type { Device } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import {
  type ConvOptions,
  conv2d,
  conv2dStats,
  type Measured,
  packConv,
  packUpsampleConv,
  upsampleConv2d,
  upsampleConv2dStats,
} from '../../lib/ops/conv.js';
import { Op } from '../../lib/ops/generated.js';
import { groupNormStats } from '../../lib/ops/norm.js';
import { run, shaped, statistic } from '../../lib/ops/run.js';
import { Tape } from '../../lib/tape.js';
import { type Shape, scope, Tensor } from '../../lib/tensor.js';
import { assertBf16, randomBf16, toBf16 } from '../support/bf16.js';
import { assertClean, assertGradients, assertMatchesReference, isaDevices, random } from '../support/numeric.js';

const EPS = 1e-6;
const same = { padding: 1 };
const down = { stride: 2, padding: { top: 0, left: 0, bottom: 1, right: 1 } };

interface Case {
  readonly x: number[];
  readonly w: number[];
  readonly groups: number;
  readonly options: ConvOptions;
}
/** Pictures of whole runs of 32 pixels, of several tiles and of one, and others; channels in fours or not. */
const cases: Case[] = [
  { x: [1, 1, 1, 1], w: [1, 1, 3, 3], groups: 1, options: same },
  { x: [2, 4, 8, 3], w: [16, 3, 3, 3], groups: 4, options: same },
  { x: [3, 7, 5, 20], w: [36, 20, 1, 1], groups: 6, options: {} },
  { x: [2, 8, 12, 16], w: [33, 16, 3, 3], groups: 11, options: same },
  { x: [2, 16, 16, 8], w: [40, 8, 3, 3], groups: 8, options: down },
  { x: [1, 24, 20, 8], w: [3, 8, 3, 3], groups: 1, options: same },
  { x: [1, 32, 33, 8], w: [130, 8, 3, 3], groups: 26, options: same },
];
const upsampled: Omit<Case, 'options'>[] = [
  { x: [2, 3, 5, 7], w: [18, 7, 3, 3], groups: 6 },
  { x: [2, 4, 8, 16], w: [40, 16, 3, 3], groups: 5 },
  { x: [1, 8, 12, 5], w: [7, 5, 3, 3], groups: 7 },
];

const outputOf = ({ x, w, options }: Case): number[] =>
  scope(() => [...conv2d(random(deviceOf(), 1, x), random(deviceOf(), 2, w), null, options).shape]);
const deviceOf = (): Device => isaDevices()[0]![1];

function paramsOf({ w, options, groups }: Case): number[] {
  const { stride = 1, padding = 0 } = options;
  const { top, left } = typeof padding === 'number' ? { top: padding, left: padding } : padding;
  return [w[2]!, w[3]!, stride, top, left, groups, EPS];
}
const stats = (x: Tensor, y: Shape, groups: number) => ({ dtype: statistic(x), shape: [y[0]!, groups, 2] });

/** The statistics of pictures [B, ..., C], by the textbook. */
function statsOf(values: ArrayLike<number>, [B = 1, ...rest]: Shape, groups: number): Float64Array {
  const channels = rest.at(-1)!;
  const [n, width] = [values.length / B, channels / groups];
  const out = new Float64Array(B * groups * 2);
  for (let b = 0; b < B; b++)
    for (let g = 0; g < groups; g++) {
      const members: number[] = [];
      for (let i = 0; i < n; i++) if (Math.floor((i % channels) / width) === g) members.push(values[b * n + i]!);
      const mean = members.reduce((sum, v) => sum + v, 0) / members.length;
      const variance = members.reduce((sum, v) => sum + (v - mean) ** 2, 0) / members.length;
      out.set([mean, 1 / Math.sqrt(variance + EPS)], 2 * (b * groups + g));
    }
  return out;
}

/** Each mean within `tolerance` standard deviations (and f32's rounding), each 1 / deviation within `tolerance` of itself. */
function assertStats(got: ArrayLike<number>, want: Float64Array, tolerance: number, what: string): void {
  assert.equal(got.length, want.length);
  for (let i = 0; i < want.length; i += 2) {
    const [mean, rstd] = [want[i]!, want[i + 1]!];
    const off = Math.max(0, Math.abs(got[i]! - mean) - 2 ** -23 * Math.abs(mean));
    assert.ok(off * rstd <= tolerance, `${what}, mean ${i / 2}: ${got[i]} for ${mean}`);
    assert.ok(Math.abs(got[i + 1]! / rstd - 1) <= tolerance, `${what}, deviation ${i / 2}: ${got[i + 1]} for ${rstd}`);
  }
}

async function read({ picture, stats }: Measured): Promise<(Float32Array | Float64Array)[]> {
  const all = stats ? [picture, stats] : [picture];
  const values = await Promise.all(all.map((t) => t.readFloats()));
  for (const t of all) t.dispose();
  return values;
}

/** bf16 operands of the case. */
const stored = (device: Device, shapes: Shape[]): Tensor[] =>
  shapes.map((shape, i) => {
    const n = shape.reduce((a, b) => a * b, 1);
    return Tensor.from(toBf16(randomBf16(i + 1, n)), shape, 'bf16', device);
  });

for (const [isa, device] of isaDevices()) {
  describe(`convolution that adds and measures on ${isa}`, () => {
    it('ops equal f64, with a residual and without', async () => {
      for (const c of cases) {
        const y = outputOf(c);
        const params = paramsOf(c);
        const add = (...inputs: Tensor[]) => run(Op.conv2dAdd, inputs, [shaped(inputs[0]!, y)], params.slice(0, 5));
        const measured = (x?: Tensor, w?: Tensor, b?: Tensor, residual?: Tensor) =>
          run(Op.conv2dStats, [x, w, b, residual], [shaped(x!, y), stats(x!, y, c.groups)], params);
        const shapes = [c.x, c.w, [c.w[0]!]];
        await assertMatchesReference(device, add, [...shapes, y]);
        await assertMatchesReference(device, measured, [...shapes, y], { tolerance: 4e-6 });
        await assertMatchesReference(device, measured, shapes, { tolerance: 4e-6 });
      }
      for (const { x, w, groups } of upsampled) {
        const y = [x[0]!, 2 * x[1]!, 2 * x[2]!, w[0]!];
        const measured = (x?: Tensor, w?: Tensor, b?: Tensor) =>
          run(Op.upsampleConv2dStats, [x, w, b], [shaped(x!, y), stats(x!, y, groups)], [groups, EPS]);
        await assertMatchesReference(device, measured, [x, w, [w[0]!]], { tolerance: 4e-6 });
      }
    });

    it('functions are the composed definition, and leave statistics on a card alone', async () => {
      const c = cases[3]!;
      const live = device.stats().liveTensors;
      const [x, w, b, r] = [c.x, c.w, [33], outputOf(c)].map((shape, i) => random(device, i + 1, shape));
      const norm = { groups: c.groups, eps: EPS };
      const kernel = packConv(w!);
      const plain = scope(() => conv2d(x!, kernel, b, { ...same, residual: r }));
      const want = scope(() => groupNormStats(plain, c.groups, EPS));
      const got = scope(() => conv2dStats(x!, kernel, b, norm, { ...same, residual: r }));
      assert.equal(got.stats !== undefined, device.kind === 'cuda');
      const [picture, measured] = await read(got);
      assert.deepEqual(picture, await plain.readFloats());
      if (measured) assertStats(measured, Float64Array.from(await want.readFloats()), 2e-6, 'conv2dStats');
      const wide = packUpsampleConv(w!);
      const large = scope(() => upsampleConv2dStats(x!, wide, b, norm));
      assert.equal(large.stats !== undefined, device.kind === 'cuda');
      const [doubled] = await read(large);
      const [expected] = await read({ picture: scope(() => upsampleConv2d(x!, wide, b)) });
      assert.deepEqual(doubled, expected);
      for (const t of [x, w, b, r, kernel, plain, want, wide]) t!.dispose();
      await assertClean(device, live);
    });

    it('bf16: the sum is rounded once, the statistics are those of what is stored', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor computes in f32 and f64
      const live = device.stats().liveTensors;
      for (const c of cases) {
        const y = outputOf(c);
        const params = paramsOf(c);
        const shapes = [c.x, c.w, [c.w[0]!], y];
        await assertBf16(device, Op.conv2dAdd, shapes, [y], { params: params.slice(0, 5) });
        const inputs = stored(device, shapes);
        const outputs = [shaped(inputs[0]!, y), stats(inputs[0]!, y, c.groups)];
        const [picture, measured] = run(Op.conv2dStats, inputs, outputs, params);
        const [values, got] = await read({ picture: picture!, stats: measured! });
        const [added] = await read({ picture: run(Op.conv2dAdd, inputs, [outputs[0]!], params.slice(0, 5))[0]! });
        assert.deepEqual(values, added);
        assertStats(got!, statsOf(values!, y, c.groups), 2e-6, `${c.x} * ${c.w}`);
        for (const t of inputs) t.dispose();
      }
      for (const { x, w, groups } of upsampled) {
        const y = [x[0]!, 2 * x[1]!, 2 * x[2]!, w[0]!];
        const inputs = stored(device, [x, w, [w[0]!]]);
        const all = scope(() => upsampleConv2dStats(inputs[0]!, inputs[1]!, inputs[2]!, { groups, eps: EPS }));
        const [values, got] = await read(all);
        const [plain] = await read({ picture: scope(() => upsampleConv2d(inputs[0]!, inputs[1]!, inputs[2]!)) });
        assert.deepEqual(values, plain);
        assertStats(got!, statsOf(values!, y, groups), 2e-6, `up ${x} * ${w}`);
        for (const t of inputs) t.dispose();
      }
      await assertClean(device, live);
    });

    it('statistics keep their digits when the mean is far from zero', async function () {
      if (device.kind !== 'cuda') this.skip(); // left to the norm there
      for (const x of [
        [1, 16, 16, 4],
        [1, 15, 15, 4],
      ]) {
        const [picture, w] = [random(device, 1, x), random(device, 2, [8, 4, 3, 3])];
        const b = Tensor.from(new Float32Array(8).fill(1000), [8], 'f32', device);
        const [values, got] = await read(scope(() => conv2dStats(picture, w, b, { groups: 2, eps: EPS }, same)));
        assertStats(got!, statsOf(values!, [x[0]!, x[1]!, x[2]!, 8], 2), 1e-5, `${x}`);
        for (const t of [picture, w, b]) t.dispose();
      }
    });

    it('a picture has the same bits alone and in a batch, whatever tiles the batch is cut into', async function () {
      if (device.kind !== 'cuda') this.skip(); // see the convolution's own test
      const C = 24;
      for (const dtype of ['f32', 'bf16'] as const)
        for (const [h, w] of [
          [8, 8],
          [4, 24],
          [7, 9],
        ] as const) {
          const batch = 24;
          const whole = stored(device, [[batch, h, w, 8], [C, 8, 3, 3], [C], [batch, h, w, C]]);
          const [x, k, b, r] = dtype === 'bf16' ? whole : whole.map((t, i) => random(device, i + 1, t.shape));
          const norm = { groups: 6, eps: EPS };
          const convs: [number, (x: Tensor, r: Tensor) => Measured][] = [
            [h * w * C, (x, r) => conv2dStats(x, k!, b!, norm, { ...same, residual: r })],
            [4 * h * w * C, (x) => upsampleConv2dStats(x, k!, b!, norm)],
          ];
          for (const [size, conv] of convs) {
            const [pictures, measured] = await read(scope(() => conv(x!, r!)));
            for (const i of [0, 1, 17]) {
              const one = x!.view([1, h, w, 8], i * h * w * 8);
              const beside = r!.view([1, h, w, C], i * h * w * C);
              const [picture, stats] = await read(scope(() => conv(one, beside)));
              assert.deepEqual(picture, pictures!.slice(i * size, (i + 1) * size));
              assert.deepEqual(stats, measured!.slice(i * 12, (i + 1) * 12));
              one.dispose();
              beside.dispose();
            }
          }
          for (const t of new Set([...whole, x!, k!, b!, r!])) t.dispose();
        }
    });

    it('a tape gets the composed form, whose gradients equal finite differences', async () => {
      const fn = (x?: Tensor, w?: Tensor, b?: Tensor, residual?: Tensor) => {
        const { picture, stats } = conv2dStats(x!, w!, b!, { groups: 3, eps: EPS }, { ...same, residual });
        assert.equal(stats, undefined);
        return picture;
      };
      await assertGradients(device, fn, [[1, 4, 8, 2], [3, 2, 3, 3], [3], [1, 4, 8, 3]]);
      await assertGradients(device, (x, w, b) => upsampleConv2dStats(x!, w!, b!, { groups: 2, eps: EPS }).picture, [
        [1, 2, 3, 2],
        [2, 2, 3, 3],
        [2],
      ]);
    });
  });
}

describe('convolution that adds and measures', () => {
  it('refuses groups and residuals that do not fit', () => {
    const invalid = (e: unknown) => e instanceof InfinityError && e.code === 'INVALID_SHAPE';
    scope(() => {
      const x = Tensor.from(new Float32Array(32), [1, 4, 4, 2]);
      const w = Tensor.from(new Float32Array(54), [3, 2, 3, 3]);
      assert.throws(() => conv2dStats(x, w, null, { groups: 2, eps: EPS }, same), invalid);
      assert.throws(() => conv2dStats(x, w, null, { groups: 0, eps: EPS }, same), invalid);
      assert.throws(() => upsampleConv2dStats(x, w, null, { groups: 2, eps: EPS }), invalid);
      assert.throws(() => conv2d(x, w, null, { ...same, residual: x }), invalid);
      assert.throws(() => new Tape().watch(x).run(() => conv2d(x, packConv(w), null, { ...same, residual: x })));
    });
  });
});
