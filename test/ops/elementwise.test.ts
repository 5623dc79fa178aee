import assert from 'node:assert/strict';
import { InfinityError } from '../../lib/errors.js';
import * as ops from '../../lib/ops/elementwise.js';
import { Op, type OpDefinition } from '../../lib/ops/generated.js';
import { type Shape, Tensor } from '../../lib/tensor.js';
import { assertBf16 } from '../support/bf16.js';
import { assertGradients, assertMatchesReference, isaDevices, random, referenceOf } from '../support/numeric.js';

const maps = {
  gelu: ops.gelu,
  silu: ops.silu,
  sigmoid: ops.sigmoid,
  exp: ops.exp,
  abs: ops.abs,
  square: ops.square,
} as const;
const scalars: Record<keyof typeof maps, (x: number) => number> = {
  gelu: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  silu: (x) => x / (1 + Math.exp(-x)),
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  exp: Math.exp,
  abs: Math.abs,
  square: (x) => x * x,
};
const binaries = { add: ops.add, sub: ops.sub, mul: ops.mul } as const;
const broadcasts: [number[], number[]][] = [
  [[7], [7]],
  [
    [3, 5, 33],
    [3, 5, 33],
  ],
  [[2, 31, 17], [17]],
  [
    [2, 31, 17],
    [2, 1, 17],
  ],
  [
    [4, 1, 3],
    [5, 1],
  ],
  [
    [2, 3, 1, 5],
    [1, 3, 4, 1],
  ],
  [[1], [3, 2]],
  [[2, 33000], [1]],
];

/** Op, operands, parameters. */
const maps16: [OpDefinition, number, number[]][] = [
  [Op.scale, 1, [-0.75]],
  [Op.addScalar, 1, [0.5]],
  [Op.clamp, 1, [-0.5, 0.25]],
  [Op.clampBackward, 2, [-0.5, 0.25]],
  [Op.exp, 1, []],
  [Op.abs, 1, []],
  [Op.absBackward, 2, []],
  [Op.square, 1, []],
  [Op.squareBackward, 2, []],
  [Op.sigmoid, 1, []],
  [Op.sigmoidBackward, 2, []],
  [Op.gelu, 1, []],
  [Op.geluBackward, 2, []],
  [Op.silu, 1, []],
  [Op.siluBackward, 2, []],
  [Op.swiglu, 2, []],
];

for (const [isa, device] of isaDevices()) {
  describe(`elementwise on ${isa}`, () => {
    for (const [name, op] of Object.entries(maps)) {
      it(`${name} equals its formula and f64 at awkward sizes, and its gradient equals finite differences`, async () => {
        for (const n of [1, 31, 33, 16385]) await assertMatchesReference(device, op, [[n]], { scale: 6 });
        await assertGradients(device, op, [[3, 11]], { scale: 4 });
        const xs = [-3, -0.5, 0.25, 2];
        const x = Tensor.from(xs, [4], 'f64', referenceOf(device));
        const y = op(x);
        const got = await y.readFloats();
        const want = xs.map(scalars[name as keyof typeof maps]);
        for (let i = 0; i < xs.length; i++) assert.ok(Math.abs(got[i]! - want[i]!) < 1e-12);
        x.dispose();
        y.dispose();
      });
    }
    for (const [name, op] of Object.entries(binaries)) {
      it(`${name} broadcasts both ways, with gradients`, async () => {
        for (const [a, b] of broadcasts) {
          await assertMatchesReference(device, op, [a, b]);
          await assertMatchesReference(device, op, [b, a]);
        }
        await assertGradients(device, op, [
          [2, 3, 5],
          [3, 1],
        ]);
      });
    }
    it('broadcasting indexes as the right-aligned rule says', async () => {
      const a = Tensor.from([1, 2, 3, 4, 5, 6], [2, 1, 3], 'f32', device);
      const b = Tensor.from([10, 20], [2, 1], 'f32', device);
      const y = ops.add(a, b);
      assert.deepEqual(y.shape, [2, 2, 3]);
      assert.deepEqual([...(await y.readFloats())], [11, 12, 13, 21, 22, 23, 14, 15, 16, 24, 25, 26]);
      for (const t of [a, b, y]) t.dispose();
    });
    it('scale and addScalar follow their constant and pass gradients back', async () => {
      for (const op of [(x: Tensor) => ops.scale(x, -0.75), (x: Tensor) => ops.addScalar(x, 0.5)]) {
        await assertMatchesReference(device, op, [[5, 7]]);
        await assertGradients(device, op, [[5, 7]]);
      }
    });
    it('clamp stops at its limits and passes the gradient inside only', async () => {
      await assertMatchesReference(device, (x) => ops.clamp(x, -0.5, 0.25), [[333]]);
      await assertGradients(device, (x) => ops.clamp(x, -0.5, 0.25), [[33]]);
      await assertGradients(device, (x) => ops.clamp(x, -Infinity, 0.25), [[33]]);
      const x = Tensor.from([-2, Number.NaN, 2], [3], 'f32', device);
      const y = ops.clamp(x, -Infinity, 1);
      assert.deepEqual([...(await y.readFloats())], [-2, Number.NaN, 1]);
      x.dispose();
      y.dispose();
    });
    it('swiglu equals silu(gate) · x and has both gradients', async () => {
      const shape = [3, 37];
      const composed = (gate: Tensor, x: Tensor): Tensor => ops.sub(ops.swiglu(gate, x), ops.mul(ops.silu(gate), x));
      await assertMatchesReference(device, ops.swiglu, [shape, shape], { scale: 4 });
      await assertMatchesReference(device, (g, x) => ops.addScalar(composed(g, x), 1), [shape, shape], { scale: 4 });
      await assertGradients(device, ops.swiglu, [shape, shape], { scale: 2 });
    });
    it('sumTo adds up what broadcasting repeated', async () => {
      await assertMatchesReference(device, (x) => ops.sumTo(x, [1, 31, 1]), [[4, 31, 300]]);
      await assertMatchesReference(device, (x) => ops.sumTo(x, [300]), [[4, 31, 300]]);
      await assertMatchesReference(device, (x) => ops.sumTo(x, [1, 3, 1, 5]), [[2, 3, 4, 5]]);
      // Positive terms: what is judged is the summation, not cancellation.
      await assertMatchesReference(device, (x) => ops.sumTo(ops.addScalar(x, 1), []), [[4, 31, 30]]);
      await assertMatchesReference(device, (x) => ops.sumTo(x, [3]), [[1, 1, 3]]);
      await assertGradients(device, (x) => ops.sumTo(x, [3, 1]), [[2, 3, 5]]);
    });
    it('broadcastTo repeats, with its gradient', async () => {
      await assertMatchesReference(device, (x) => ops.broadcastTo(x, [4, 3, 35]), [[3, 1]]);
      await assertGradients(device, (x) => ops.broadcastTo(x, [4, 3, 5]), [[3, 1]]);
      await assertGradients(device, (x) => ops.broadcastTo(x, [2, 3]), [[]]);
    });
    it('views that start anywhere give what aligned tensors give', async () => {
      const cases: [string, number[], number[]][] = [
        ['one shape', [5, 33], [5, 33]],
        ['a row for all', [5, 32], [32]],
        ['a number a row', [5, 32], [5, 1]],
      ];
      for (const [name, a, b] of cases) {
        const [long, other] = [random(device, 1, [200]), random(device, 2, b)];
        const size = a[0]! * a[1]!;
        for (const offset of [1, 4]) {
          const view = long.view(a, offset);
          const copy = Tensor.from((await long.readFloats()).subarray(offset, offset + size), a, 'f32', device);
          const results = [view, copy].map((x) => ops.mul(x, other));
          const [got, want] = await Promise.all(results.map((y) => y.read()));
          assert.deepEqual(got, want, `${name}, ${offset}`);
          for (const t of [view, copy, ...results]) t.dispose();
        }
        long.dispose();
        other.dispose();
      }
    });
    it('bf16 is computed in float and rounded once', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor computes in f32 and f64
      for (const [op, operands, params] of maps16)
        for (const n of [1, 33, 4104])
          await assertBf16(device, op, new Array<Shape>(operands).fill([n]), [[n]], { params, scale: 4 });
      await assertBf16(device, Op.swigluBackward, [[1033], [1033], [1033]], [[1033], [1033]], { scale: 4 });
      for (const op of [Op.add, Op.sub, Op.mul])
        for (const [a, b] of broadcasts) await assertBf16(device, op, [a, b], [ops.broadcastShape(a, b)!]);
      await assertBf16(device, Op.broadcastTo, [[3, 1]], [[4, 3, 40]]);
    });
    it('refuses shapes that do not broadcast and types that do not match', () => {
      const a = Tensor.from([1, 2], [2], 'f32', device);
      const b = Tensor.from([1, 2, 3], [3], 'f32', device);
      const c = Tensor.from([1, 2], [2], 'i32', device);
      const refused = { name: InfinityError.name, code: 'INVALID_SHAPE' };
      assert.throws(() => ops.add(a, b), refused);
      assert.throws(() => ops.add(a, c), refused);
      assert.throws(() => ops.sumTo(a, [3]), refused);
      assert.throws(() => ops.broadcastTo(a, [3]), refused);
      assert.throws(() => ops.clamp(a, 1, 0), { code: 'INVALID_ARGUMENT' });
      for (const t of [a, b, c]) t.dispose();
    });
  });
}
