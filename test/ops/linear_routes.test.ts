import assert from 'node:assert/strict';
import type { Device } from '../../lib/device.js';
import { Op } from '../../lib/ops/generated.js';
import { run } from '../../lib/ops/run.js';
import { cast, fill } from '../../lib/ops/shape.js';
import { type Shape, Tensor } from '../../lib/tensor.js';
import { assertBf16, assertMixed16, measure, type Operand16, randomBf16, stored } from '../support/bf16.js';
import { assertClean, CUDA } from '../support/numeric.js';
import { onRoute, ROUTES } from '../support/product_routes.js';

/** [M, N, K] with rows of whole 16 bytes: every way serves them. */
const sizes = [
  [1, 8, 8],
  [5, 24, 40],
  [66, 136, 72],
] as const;

/** f32 operands beside bf16 ones; their values are those of bf16, so that rounding one to it changes nothing. */
const wide = (shape: Shape, seed: number): Operand16 =>
  measure(
    shape,
    randomBf16(
      seed,
      shape.reduce((a, b) => a * b, 1),
    ),
  );

for (const route of ROUTES) {
  describe(`linear in bf16 by ${route} on ${CUDA}`, () => {
    let device: Device;
    before(function () {
      const opened = onRoute(route);
      if (typeof opened === 'string') this.skip(); // there is no such way here
      device = opened;
    });
    after(() => device?.close());

    /** All products since the last call went this way. */
    const seen = new Set<string>();
    const assertTaken = async (count: number): Promise<void> => {
      await device.sync();
      const lines = device.decisions().filter((line) => !seen.has(line));
      for (const line of lines) {
        seen.add(line);
        assert.match(line, new RegExp(`: ${route} \\(asked for\\)$`));
      }
      assert.equal(lines.length, count);
    };

    it('has every epilogue, from operands of both types', async () => {
      for (const [M, N, K] of sizes) {
        const [x, w] = [stored(M, K), stored(N, K)];
        const biases = [null, stored(N), wide([N], 3)];
        const residuals = [null, stored(M, N), wide([M, N], 4)];
        for (const bias of biases)
          for (const residual of residuals)
            for (const gate of residual ? [null, stored(1, N), wide([M, N], 5)] : [null])
              for (const gelu of [0, 1]) {
                // The library's tanh is not known to be exact.
                const tolerance = gelu && !residual && route === 'cublaslt' ? 2 ** -10 : 2e-6;
                const options = { params: [gelu], tolerance };
                await assertMixed16(device, Op.linear, [x, w, bias, residual, gate], [stored(M, N)], options);
              }
        await assertTaken(3 * (1 + 3 + 3) * 2);
      }
    });

    it('writes f32 results of bf16 operands', async () => {
      for (const [M, N, K] of sizes) {
        const [x, w, b, r] = [stored(M, K), stored(N, K), wide([N], 3), wide([M, N], 4)];
        for (const operands of [[x, w, null, null, null] as const, [x, w, b, null, null] as const])
          await assertMixed16(device, Op.linear, operands, [measure([M, N])], { params: [0] });
        await assertMixed16(device, Op.linear, [x, w, b, r, null], [measure([M, N])], { params: [0] });
        await assertTaken(3);
      }
    });

    it('has both gradients, with the sums of rows', async () => {
      for (const [M, N, K] of [...sizes, [1100, 24, 16] as const]) {
        const shapes = [
          [M, N],
          [N, K],
        ];
        await assertBf16(device, Op.linearBackwardInput, shapes, [[M, K]]);
        const [weight, tolerance] = [[N, K] as const, 2 ** -23 * (4 + M / 16)];
        const gradients = [weight, [N] as const];
        const operands = [
          [M, N],
          [M, K],
        ];
        await assertBf16(device, Op.linearBackwardWeight, operands, gradients, { result: 'f32', tolerance });
        await assertTaken(2);
      }
    });

    it('leaves operands that start between 16 bytes to the kernels that read any', async () => {
      const live = device.stats().liveTensors;
      const [M, N, K] = [4, 16, 32];
      const values = randomBf16(1, M * K + 1);
      const all = Tensor.from(Float32Array.from(values), [M * K + 1], 'f32', device);
      const half = cast(all, 'bf16');
      const x = half.view([M, K], 1);
      const w = fill([N, K], 1, 'bf16', device);
      const operands = [x, w, null, null, null];
      const y = run(Op.linear, operands, [{ dtype: 'f32', shape: [M, N] }], [0])[0]!;
      const got = await y.readFloats();
      for (let i = 0; i < M; i++) {
        const want = values.slice(1 + i * K, 1 + (i + 1) * K).reduce((a, b) => a + b, 0);
        assert.ok(Math.abs(got[i * N]! - want) < 1e-5);
      }
      const line = device.decisions().find((each) => each.includes('not aligned'));
      assert.match(line ?? '', route === 'fragments' ? /: fragments \(asked for\)$/ : /: fragments \(not for/);
      for (const t of [all, half, x, w, y]) t.dispose();
      await assertClean(device, live);
    });
  });
}
