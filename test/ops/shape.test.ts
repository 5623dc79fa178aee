import assert from 'node:assert/strict';
import { Op } from '../../lib/ops/generated.js';
import * as ops from '../../lib/ops/shape.js';
import { type DType, type Shape, scope, sizeOf, Tensor } from '../../lib/tensor.js';
import { assertBf16 } from '../support/bf16.js';
import { assertClean, assertGradients, isaDevices, random } from '../support/numeric.js';

/** The element of a row-major tensor at each index of `shape`, in order, chosen by `source`. */
function gather(shape: Shape, source: (index: number[]) => number): number[] {
  return Array.from({ length: sizeOf(shape) }, (_, flat) => {
    const index = new Array<number>(shape.length);
    let rest = flat;
    for (let i = shape.length - 1; i >= 0; i--) {
      index[i] = rest % shape[i]!;
      rest = Math.floor(rest / shape[i]!);
    }
    return source(index);
  });
}
const flat = (shape: Shape, index: readonly number[]): number =>
  index.reduce((at, i, axis) => at * shape[axis]! + i, 0);

for (const [isa, device] of isaDevices()) {
  const types: DType[] = ['f32', ...(device.kind === 'cuda' ? [] : ['f64' as const]), 'bf16', 'i32', 'u8'];
  const widest = device.kind === 'cuda' ? 'f32' : 'f64';
  const iota = (shape: Shape, dtype: DType = 'f32'): Tensor =>
    Tensor.from(
      Array.from({ length: sizeOf(shape) }, (_, i) => (dtype === 'u8' ? i % 251 : i)),
      shape,
      dtype,
      device,
    );
  const check = async (make: () => Tensor, shape: Shape, want: readonly number[]): Promise<void> => {
    const live = device.stats().liveTensors;
    const y = scope(make);
    assert.deepEqual(y.shape, shape);
    assert.deepEqual([...(await y.read())], want);
    y.dispose();
    await assertClean(device, live);
  };

  describe(`shape on ${isa}`, () => {
    it('reshape is a view of any type, with one computed extent', async () => {
      await check(() => ops.reshape(iota([2, 6]), [3, -1]), [3, 4], [...Array(12).keys()]);
      const x = iota([2, 6]);
      assert.throws(() => ops.reshape(x, [5, -1]), { code: 'INVALID_SHAPE' });
      assert.throws(() => ops.reshape(x, [-1, -1]), { code: 'INVALID_SHAPE' });
      assert.throws(() => ops.reshape(x, [13]), { code: 'INVALID_SHAPE' });
      x.dispose();
      await assertGradients(device, (t) => ops.reshape(t, [6]), [[2, 3]]);
    });
    it('permute moves every element of every type to its place', async () => {
      const cases: [number[], number[]][] = [
        [[7], [0]],
        [
          [3, 5],
          [1, 0],
        ],
        [
          [70, 131],
          [1, 0],
        ],
        [
          [2, 3, 4],
          [0, 2, 1],
        ],
        [
          [2, 9, 17, 3],
          [0, 3, 1, 2],
        ],
        [
          [2, 3, 9, 17],
          [0, 2, 3, 1],
        ],
        [
          [3, 4, 5, 6],
          [2, 0, 3, 1],
        ],
        [
          [3, 4, 5, 6],
          [1, 0, 2, 3],
        ],
        [
          [2, 3, 2, 5, 2, 7],
          [0, 1, 3, 5, 2, 4],
        ],
        [
          [1, 5, 1, 4],
          [3, 2, 1, 0],
        ],
      ];
      for (const [shape, axes] of cases) {
        const out = axes.map((a) => shape[a]!);
        const from = gather(out, (index) =>
          flat(
            shape,
            axes.map((_, a) => index[axes.indexOf(a)]!),
          ),
        );
        for (const dtype of types) {
          if (dtype === 'bf16' && sizeOf(shape) > 65535) continue;
          const want = dtype === 'u8' ? from.map((i) => i % 251) : from;
          await check(() => ops.permute(iota(shape, dtype), axes), out, want);
        }
      }
      const x = iota([2, 3]);
      assert.throws(() => ops.permute(x, [0, 0]), { code: 'INVALID_ARGUMENT' });
      x.dispose();
      await assertGradients(device, (t) => ops.permute(t, [2, 0, 1]), [[2, 3, 4]]);
    });
    it('slice, pad, cat and unbind agree with indexing, on every axis', async () => {
      for (const shape of [
        [3, 5, 7],
        [3, 5, 16],
      ])
        for (const axis of [0, 1, 2]) {
          const end = shape[axis]! - 1;
          const part = shape.map((n, i) => (i === axis ? end - 1 : n));
          const shifted = (index: number[], by: number): number[] => index.map((v, i) => (i === axis ? v + by : v));
          const cut = gather(part, (index) => flat(shape, shifted(index, 1)));
          for (const dtype of types) await check(() => ops.slice(iota(shape, dtype), axis, 1, end), part, cut);
          const wide = shape.map((n, i) => (i === axis ? n + 5 : n));
          const padded = gather(wide, (index) => {
            const at = index[axis]! - 2;
            return at < 0 || at >= shape[axis]! ? 0.5 : flat(shape, shifted(index, -2));
          });
          await check(() => ops.pad(iota(shape), axis, 2, 3, 0.5), wide, padded);
          // Cutting in two and joining again changes nothing.
          for (const dtype of types)
            await check(
              () => {
                const x = iota(shape, dtype);
                return ops.cat([ops.slice(x, axis, 0, 1), ops.slice(x, axis - 3, 1, shape[axis]!)], axis);
              },
              shape,
              [...Array(sizeOf(shape)).keys()],
            );
          const rest = shape.filter((_, i) => i !== axis);
          const second = gather(rest, (index) => flat(shape, [...index.slice(0, axis), 1, ...index.slice(axis)]));
          await check(() => ops.unbind(iota(shape, 'i32'), axis)[1]!, rest, second);
        }
      const x = iota([3, 5, 7]);
      assert.throws(() => ops.slice(x, 1, 2, 2), { code: 'INVALID_ARGUMENT' });
      assert.throws(() => ops.slice(x, 1, 0, 6), { code: 'INVALID_ARGUMENT' });
      const [part, square, long] = [iota([3, 2, 7]), iota([3, 3]), iota([3, 6, 7])];
      for (const start of [-1, 4, 0.5])
        assert.throws(() => ops.writeSlice(x, part, 1, start), { code: 'INVALID_ARGUMENT' });
      for (const other of [square, long])
        assert.throws(() => ops.writeSlice(x, other, 1, 0), { code: 'INVALID_SHAPE' });
      assert.throws(() => ops.writeSlice(x, part, 0, 0), { code: 'INVALID_SHAPE' });
      for (const t of [part, square, long]) t.dispose();
      assert.throws(() => ops.cat([], 0), { code: 'INVALID_ARGUMENT' });
      assert.throws(() => ops.pad(x, 1, -1, 0), { code: 'INVALID_ARGUMENT' });
      x.dispose();
    });
    it('pads bf16 with the rounded value', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor pads f32 and f64
      for (const inner of [5, 16])
        for (const axis of [0, 1, 2]) {
          const out = [3, 4, inner].map((n, i) => (i === axis ? n + 24 : n));
          await assertBf16(device, Op.pad, [[3, 4, inner]], [out], { params: [axis, 8, 0.3] });
        }
    });
    it('their gradients equal finite differences', async () => {
      for (const axis of [0, 1, 2]) {
        await assertGradients(device, (x) => ops.slice(x, axis, 1, 2), [[2, 3, 4]]);
        await assertGradients(device, (x) => ops.pad(x, axis, 2, 1), [[2, 3, 4]]);
        await assertGradients(device, (x) => ops.unbind(x, axis), [[2, 3, 2]]);
        // Only one of the parts is used: the others get zeros.
        await assertGradients(device, (x) => ops.unbind(x, axis)[1]!, [[2, 3, 2]]);
        await assertGradients(device, (x, y) => ops.cat([x, y, x], axis), [
          [2, 3, 4],
          [2, 3, 4],
        ]);
      }
      await assertGradients(device, (x) => ops.repeat0(x, 3), [[2, 3]]);
    });
    it('repeat0 puts the batch after itself', async () => {
      await check(() => ops.repeat0(iota([2, 3]), 2), [4, 3], [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]);
    });
    it('fill writes one value of any type', async () => {
      const stored: Record<DType, number> = { f32: 3, f64: 3, i32: 3, u8: 3, bf16: 0x4040 };
      for (const dtype of types)
        await check(() => ops.fill([3, 7], 3, dtype, device), [3, 7], new Array<number>(21).fill(stored[dtype]));
    });
    it('cast widens exactly, rounds to bf16 ties to even, and casts gradients back', async () => {
      const ties = [1, 1 + 2 ** -8, 1 + 3 * 2 ** -8, -1 - 2 ** -9, Number.NaN];
      await check(
        () => ops.cast(Tensor.from(ties, [5], 'f32', device), 'bf16'),
        [5],
        [0x3f80, 0x3f80, 0x3f82, 0xbf80, 0x7fc0],
      );
      for (const dtype of ['u8', 'i32', widest] as const)
        await check(() => ops.cast(iota([40], dtype), 'f32'), [40], [...Array(40).keys()]);
      await check(() => ops.cast(ops.cast(iota([33]), 'bf16'), widest), [33], [...Array(33).keys()]);
      await assertGradients(device, (x) => ops.cast(ops.cast(x, widest), widest), [[5]]);
      const x = random(device, 1, [4]);
      assert.throws(() => ops.cast(x, 'i32'), { code: 'UNSUPPORTED_DTYPE' });
      x.dispose();
    });
  });
}
