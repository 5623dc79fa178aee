import assert from 'node:assert/strict';
import { groupNorm, groupNormApply, groupNormStats } from '../../lib/ops/norm.js';
import { cat, slice } from '../../lib/ops/shape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { EPS, evaluate, input, normalise } from '../support/norms.js';
import {
  assertClean,
  assertGradients,
  assertMatchesReference,
  isaDevices,
  random,
  randomArray,
  referenceOf,
  relativeError,
} from '../support/numeric.js';

for (const [isa, device] of isaDevices()) {
  const [exact, tolerance] = device.kind === 'cuda' ? (['f32', 4e-6] as const) : (['f64', 1e-12] as const);
  describe(`group norm on ${isa}`, () => {
    const group = (groups: number, silu: boolean) => (x: Tensor, w: Tensor, b: Tensor) =>
      groupNorm(x, w, b, groups, EPS, { silu });

    it('groupNorm follows its definition, over several runs of pixels, with and without silu', async () => {
      const cases: [number[], number][] = [
        [[2, 3, 3, 6], 3],
        [[1, 5, 31, 33], 11],
        [[2, 9, 64, 32], 8],
      ];
      for (const [shape, groups] of cases) {
        const [batch, channels] = [shape[0]!, shape[3]!];
        const n = shape.reduce((a, b) => a * b);
        const x = input(0, n);
        const [w, b] = [input(1, channels), input(2, channels)];
        const width = channels / groups;
        const groupOf = (i: number): number =>
          Math.floor(i / (n / batch)) * groups + Math.floor((i % channels) / width);
        const normal = normalise(x, groupOf, true);
        const z = normal.map((v, i) => v * w[i % channels]! + b[i % channels]!);
        const shapes = [shape, [channels], [channels]];
        assert.ok(relativeError(await evaluate(device, exact, group(groups, false), shapes), z) < tolerance);
        const silu = z.map((v) => v / (1 + Math.exp(-v)));
        assert.ok(relativeError(await evaluate(device, exact, group(groups, true), shapes), silu) < tolerance);
        await assertMatchesReference(device, group(groups, true), shapes, { tolerance: 4e-6 });
      }
    });

    it('groupNorm in two steps, the second on parts, has the bits of groupNorm', async () => {
      for (const [silu, shape, groups] of [
        [true, [2, 13, 21, 36], 3],
        [false, [1, 40, 33, 31], 1],
      ] as const) {
        const C = shape[3];
        const live = device.stats().liveTensors;
        const [whole, parts] = scope(() => {
          const [x, w, b] = [shape, [C], [C]].map((s, i) => random(device, 40 + i, s)) as [Tensor, Tensor, Tensor];
          const stats = groupNormStats(x, groups, EPS);
          const cuts = [0, 1, 7, shape[1]];
          const rows = cuts.slice(1).map((end, i) => slice(x, 1, cuts[i]!, end));
          const applied = rows.map((r) => groupNormApply(r, stats, w, b, { silu }));
          return [groupNorm(x, w, b, groups, EPS, { silu }), cat(applied, 1)];
        });
        assert.deepEqual(await parts.read(), await whole.read());
        whole.dispose();
        parts.dispose();
        await assertClean(device, live);
      }
    });

    it('groupNorm keeps its digits when the mean is far from zero', async () => {
      const far = (x: Tensor, w: Tensor, b: Tensor): Tensor => groupNorm(x, w, b, 4, EPS);
      const n = 2 * 16 * 64 * 32;
      const x = randomArray(1, n).map((v) => Math.fround(v + 100));
      const [w, b] = [randomArray(2, 32), randomArray(3, 32)];
      const [got, want] = await Promise.all(
        (['f32', 'f64'] as const).map(async (dtype) => {
          const on = dtype === 'f64' ? referenceOf(device) : device;
          const y = scope(() =>
            far(
              Tensor.from(x, [2, 16, 64, 32], dtype, on),
              Tensor.from(w, [32], dtype, on),
              Tensor.from(b, [32], dtype, on),
            ),
          );
          const values = await y.readFloats();
          y.dispose();
          return values;
        }),
      );
      // Half an ulp of the mean, 4e-6 at 100, is what the centred values can lose.
      assert.ok(relativeError(got!, want!) < 1e-5);
    });

    it('groupNorm of a picture so big that a card takes longer runs of it', async function () {
      if (device.kind !== 'cuda') this.skip(); // the processor's runs are of one length
      const [pixels, C] = [2100, 4096];
      const values = randomArray(1, pixels * C);
      const x = Tensor.from(values, [1, pixels, 1, C], 'f32', device);
      const stats = groupNormStats(x, 1, EPS);
      const got = await stats.readFloats();
      const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
      const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length;
      assert.ok(Math.abs(got[0]! - mean) < 1e-7, `${got[0]} for ${mean}`);
      assert.ok(Math.abs(got[1]! * Math.sqrt(variance + EPS) - 1) < 1e-6, `${got[1]} for ${variance}`);
      x.dispose();
      stats.dispose();
    });

    it('gradients of groupNorm equal finite differences', async () => {
      for (const silu of [false, true])
        for (const [c, groups] of [
          [6, 3],
          [18, 2],
        ] as const)
          await assertGradients(device, group(groups, silu), [[2, 2, 3, c], [c], [c]], { tolerance: 2e-6 });
    });
  });
}
