import assert from 'node:assert/strict';
import type { Device } from '../../lib/device.js';
import { sub } from '../../lib/ops/elementwise.js';
import * as ops from '../../lib/ops/optim.js';
import { Tape } from '../../lib/tape.js';
import { type DType, type Shape, sizeOf, Tensor } from '../../lib/tensor.js';
import { assertClean, isaDevices, randomArray, relativeError } from '../support/numeric.js';

const settings = { lr: 1e-2, beta1: 0.9, beta2: 0.97, eps: 1e-8, weightDecay: 0.05 };
const AVERAGE_DECAY = 0.75;

/** Sizes around the widths of vectors, tiles and pieces. */
const SHAPES: readonly Shape[] = [[1], [31], [33], [4096], [5, 7, 11], [16400], [129, 128]];
/** More than a command takes, and than a card takes at once. */
const MANY: readonly Shape[] = Array.from({ length: 400 }, (_, i) => [1 + ((i * 37) % 101)]);

/** AdamW (Loshchilov and Hutter, algorithm 2) and the average of its weights in doubles, written from the formulas. */
function adamwReference(p: Float64Array, grads: Float64Array[], gradScale: number) {
  const [x, m, v] = [p.slice(), new Float64Array(p.length), new Float64Array(p.length)];
  const average = p.slice();
  const { lr, beta1, beta2, eps, weightDecay } = settings;
  for (const [t, g] of grads.entries())
    for (let i = 0; i < x.length; i++) {
      const gi = g[i]! * gradScale;
      m[i] = beta1 * m[i]! + (1 - beta1) * gi;
      v[i] = beta2 * v[i]! + (1 - beta2) * gi * gi;
      const mHat = m[i]! / (1 - beta1 ** (t + 1));
      const vHat = v[i]! / (1 - beta2 ** (t + 1));
      x[i]! -= lr * (mHat / (Math.sqrt(vHat) + eps) + weightDecay * x[i]!);
      average[i] = AVERAGE_DECAY * average[i]! + (1 - AVERAGE_DECAY) * x[i]!;
    }
  return { x, average };
}

interface ListOptions {
  readonly dtype?: DType;
  readonly averaged?: boolean;
  /** Elements between the start of a tensor's memory and its own. */
  readonly offset?: number;
}

/** Tensors of these shapes; the three gradients of each, one after the other, are those of its place in the list. */
function makeList(device: Device, shapes: readonly Shape[], options: ListOptions = {}) {
  const { dtype = 'f32', averaged = true, offset = 0 } = options;
  const owned: Tensor[] = [];
  const make = (values: Float64Array, shape: Shape): Tensor => {
    const padded = new Float64Array(offset + values.length);
    padded.set(values, offset);
    const whole = Tensor.from(padded, [padded.length], dtype, device);
    owned.push(whole, whole.view(shape, offset));
    return owned.at(-1)!;
  };
  const starts = shapes.map((shape, k) => randomArray(4 * k + 1, sizeOf(shape)));
  const gradients = shapes.map((shape, k) =>
    [2, 3, 4].map((s) => randomArray(4 * k + s, sizeOf(shape), s === 3 ? 1e-3 : 1)),
  );
  const tensors = shapes.map((shape, k) => ({
    parameter: make(starts[k]!, shape),
    m: make(new Float64Array(sizeOf(shape)), shape),
    v: make(new Float64Array(sizeOf(shape)), shape),
    average: averaged ? make(starts[k]!, shape) : undefined,
    gradients: gradients[k]!.map((values) => make(values, shape)),
  }));
  const at = (step: number): ops.AdamwTensors[] =>
    tensors.map(({ gradients: own, ...rest }) => ({ ...rest, gradient: own[step]! }));
  const read = () =>
    Promise.all(
      tensors.flatMap(({ parameter, m, v, average }) =>
        [parameter, m, v, ...(average ? [average] : [])].map((t) => t.readFloats()),
      ),
    );
  const dispose = (): void => {
    for (const t of owned) t.dispose();
  };
  return { tensors, starts, gradients, at, read, dispose };
}

for (const [isa, device] of isaDevices()) {
  const f32 = (values: Float64Array | number[], shape: number[]): Tensor => Tensor.from(values, shape, 'f32', device);
  const averageDecay = AVERAGE_DECAY;

  describe(`optim on ${isa}`, () => {
    it('adamw equals its formulas over several steps, with and without a gradient factor and averages', async () => {
      const live = device.stats().liveTensors;
      const cases: [DType, number, boolean][] = [
        ['f32', 1, true],
        ['f32', 0.25, false],
      ];
      // The constants of a command are f32, in the reference as well.
      if (device.kind === 'cpu') cases.push(['f64', 0.25, true]);
      for (const [dtype, gradScale, averaged] of cases) {
        const list = makeList(device, SHAPES, { dtype, averaged });
        const factor = gradScale === 1 ? null : Tensor.from([gradScale], [], dtype, device);
        for (let i = 0; i < 3; i++) {
          const step = { ...settings, step: i + 1, gradScale: factor };
          ops.adamw_(list.at(i), averaged ? { ...step, averageDecay } : step);
        }
        for (const [k, { parameter, average }] of list.tensors.entries()) {
          const want = adamwReference(list.starts[k]!, list.gradients[k]!, gradScale);
          const error = relativeError(await parameter.readFloats(), want.x);
          assert.ok(error < 1e-6, `${SHAPES[k]}: ${error}`);
          if (!average) continue;
          const off = relativeError(await average.readFloats(), want.average);
          assert.ok(off < 1e-6, `average ${SHAPES[k]}: ${off}`);
        }
        list.dispose();
        factor?.dispose();
      }
      await assertClean(device, live);
    });
    it('adamw of a list has the bits of its tensors one by one, wherever their memory begins', async () => {
      const live = device.stats().liveTensors;
      for (const shapes of [SHAPES, MANY.slice(0, 90)]) {
        const [together, alone, odd] = [0, 0, 1].map((offset) => makeList(device, shapes, { offset }));
        for (let i = 0; i < 3; i++) {
          const step = { ...settings, step: i + 1, averageDecay };
          ops.adamw_(together!.at(i), step);
          for (const one of alone!.at(i)) ops.adamw_([one], step);
          ops.adamw_(odd!.at(i), step);
        }
        const want = await alone!.read();
        assert.deepEqual(await together!.read(), want);
        assert.deepEqual(await odd!.read(), want);
        for (const list of [together, alone, odd]) list!.dispose();
      }
      await assertClean(device, live);
    });
    it('a list is a few commands', async () => {
      const list = makeList(device, MANY);
      await device.sync();
      const before = device.stats();
      ops.adamw_(list.at(0), { ...settings, step: 1, averageDecay });
      const sums = ops.sumSquares(list.at(0).map((t) => t.gradient!));
      await device.sync();
      const { commands, launches } = device.stats();
      // 76 of five operands, 383 of one; of the latter a card takes 197 at once, in two passes. One more command waits.
      assert.equal(commands - before.commands, 6 + 2 + 1);
      assert.equal(launches - before.launches, device.kind === 'cuda' ? 6 + 2 * 3 : 0);
      sums.dispose();
      list.dispose();
    });
    it('a parameter without a gradient stays as it is, and its average follows it', async () => {
      const list = makeList(device, [[33], [40], [5]]);
      const [first, , third] = list.at(0);
      const still = { ...list.at(0)[1]!, gradient: null };
      const [x, m, v] = await Promise.all([still.parameter, still.m, still.v].map((t) => t.readFloats()));
      still.average!.write(new Float32Array(40).fill(2));
      ops.adamw_([first!, still, third!], { ...settings, step: 1, averageDecay });
      for (const [t, want] of [
        [still.parameter, x],
        [still.m, m],
        [still.v, v],
      ] as const)
        assert.deepEqual(await t.readFloats(), want);
      const want = Array.from(x!, (value) => 2 * AVERAGE_DECAY + (1 - AVERAGE_DECAY) * value);
      assert.ok(relativeError(await still.average!.readFloats(), want) < 1e-6);
      for (const k of [0, 2]) {
        const { parameter } = list.tensors[k]!;
        const moved = adamwReference(list.starts[k]!, list.gradients[k]!.slice(0, 1), 1);
        assert.ok(relativeError(await parameter.readFloats(), moved.x) < 1e-6);
      }
      list.dispose();
    });
    it('averages keep their digits close to decay 1', async () => {
      const [average, parameter, m, v] = [
        [1, 0, -4],
        [3, 1, -4],
        [0, 0, 0],
        [0, 0, 0],
      ].map((x) => f32(x, [3]));
      const still = { parameter: parameter!, gradient: null, m: m!, v: v!, average: average! };
      for (let i = 0; i < 100; i++) ops.adamw_([still], { ...settings, step: 1, averageDecay: 0.9999 });
      const left = 0.9999 ** 100;
      const got = await average!.readFloats();
      for (const [i, want] of [3 - 2 * left, 1 - left, -4].entries())
        assert.ok(Math.abs(got[i]! - want) < 3e-6 * Math.max(1, Math.abs(want)), `${got[i]} ${want}`);
      for (const t of [average, parameter, m, v]) t!.dispose();
    });
    it('sumSquares adds up every tensor of a list in double, in an order of its own', async () => {
      const live = device.stats().liveTensors;
      const sizes = [1, 17, 4097, 8193, 300000, ...MANY.map(([n]) => n!)];
      const values = sizes.map((n, k) => randomArray(k + 1, n));
      const xs = values.map((x) => f32(x, [x.length]));
      const sums = ops.sumSquares(xs);
      const got = await sums.readFloats();
      for (const [k, x] of values.entries()) {
        const want = x.reduce((s, e) => s + e * e, 0);
        assert.ok(Math.abs(got[k]! - want) <= 1.2e-7 * want, `${sizes[k]}: ${got[k]} ${want}`);
      }
      for (const k of [0, 2, 4, sizes.length - 1]) {
        const alone = ops.sumSquares([xs[k]!]);
        assert.equal((await alone.readFloats())[0], got[k]);
        alone.dispose();
      }
      for (const t of [...xs, sums]) t.dispose();
      await assertClean(device, live);
    });
    it('sumSquares shows what is not finite, and where', async () => {
      for (const odd of [Number.POSITIVE_INFINITY, Number.NaN]) {
        const xs = [[1, 2], [1, odd, 2], [3]].map((x) => f32(x, [x.length]));
        const y = ops.sumSquares(xs);
        assert.deepEqual([...(await y.readFloats())], [5, odd, 9]);
        for (const t of [...xs, y]) t.dispose();
      }
    });
    it('clipFactor shrinks what is too long, leaves the rest, and shows a NaN', async () => {
      const parts = f32([9, 16], [2]);
      const [long, short] = [ops.clipFactor(parts, 2.5), ops.clipFactor(parts, 10)];
      assert.equal((await long.norm.readFloats())[0], 5);
      assert.ok(Math.abs((await long.factor.readFloats())[0]! - 0.5) < 1e-6);
      assert.equal((await short.factor.readFloats())[0], 1);
      const nan = f32([9, Number.NaN], [2]);
      const broken = ops.clipFactor(nan, 1);
      assert.ok(Number.isNaN((await broken.factor.readFloats())[0]));
      for (const t of [parts, nan, ...[long, short, broken].flatMap((c) => [c.norm, c.factor])]) t.dispose();
    });
    it('refuses senseless lists, settings and the inside of a tape', () => {
      const x = f32([1, 2], [2]);
      const y = f32([1, 2, 3], [3]);
      const codes = Tensor.from([1, 2], [2], 'i32', device);
      const step = { ...settings, step: 1 };
      const one = { parameter: x, gradient: x, m: x, v: x };
      const other = { parameter: y, gradient: y, m: y, v: y };
      const refused = (
        list: ops.AdamwTensors[],
        options: Partial<ops.AdamwOptions>,
        code: string,
        told: RegExp,
      ): void => assert.throws(() => ops.adamw_(list, { ...step, ...options }), { code, message: told });
      refused([], {}, 'INVALID_ARGUMENT', /tensors of adamw/);
      refused([one, { ...other, gradient: x }], {}, 'INVALID_SHAPE', /adamw/);
      refused([{ parameter: codes, gradient: codes, m: codes, v: codes }], {}, 'INVALID_SHAPE', /adamw.*i32/);
      refused([one, other, one], {}, 'INVALID_ARGUMENT', /parameters of adamw/);
      refused([one], { averageDecay: 0.5 }, 'INVALID_ARGUMENT', /averageDecay/);
      refused([{ ...one, average: x }], {}, 'INVALID_ARGUMENT', /averageDecay/);
      refused([{ ...one, average: x }], { averageDecay: 1.5 }, 'INVALID_ARGUMENT', /averageDecay/);
      refused([one], { gradScale: y }, 'INVALID_SHAPE', /factor/);
      refused([one], { step: 0 }, 'INVALID_ARGUMENT', /step/);
      refused([one], { lr: Number.NaN }, 'INVALID_ARGUMENT', /lr/);
      assert.throws(() => Tensor.from([], [0], 'f32', device), { code: 'INVALID_SHAPE' });
      assert.throws(() => ops.sumSquares([]), { code: 'INVALID_ARGUMENT', message: /sum_squares/ });
      assert.throws(() => ops.sumSquares([x, codes]), { code: 'INVALID_SHAPE' });
      assert.throws(() => ops.clipFactor(x, 0), { code: 'INVALID_ARGUMENT' });
      const tape = new Tape().watch(x);
      assert.throws(() => tape.run(() => ops.sumSquares([sub(x, x)])), { code: 'NOT_DIFFERENTIABLE' });
      tape.dispose();
      for (const t of [x, y, codes]) t.dispose();
    });
  });
}
