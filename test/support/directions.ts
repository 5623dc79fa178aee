/** Gradients of many numbers at once: their slope along random directions against central differences, in f64. */
import assert from 'node:assert/strict';
import { Tape } from '../../lib/tape.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { randomArray } from './numeric.js';

/** Compares the tape's gradient of `loss` with respect to all of `of`, f64, with differences along five directions. */
export async function assertDirections(
  of: readonly Tensor[],
  loss: () => Tensor,
  { step = 1e-6, tolerance = 1e-6 } = {},
): Promise<void> {
  const tape = new Tape().watch(...of);
  const value = tape.run(loss);
  using one = Tensor.from([1], [], 'f64', value.device);
  const grads = tape.backward([{ of: value, cotangent: one }]);
  const gradients = await Promise.all(
    of.map(async (t) => (await grads.get(t)?.readFloats()) ?? new Float64Array(t.size)),
  );
  grads.dispose();
  value.dispose();
  const start = await Promise.all(of.map(async (t) => Float64Array.from(await t.readFloats())));
  const at = async (directions: readonly Float64Array[], distance: number): Promise<number> => {
    for (const [i, t] of of.entries()) t.write(start[i]!.map((v, j) => v + distance * directions[i]![j]!));
    const y = scope(loss);
    const [result] = await y.readFloats();
    y.dispose();
    return result!;
  };
  for (let k = 0; k < 5; k++) {
    const directions = of.map((t, i) => randomArray(100 * k + i, t.size));
    const want = ((await at(directions, step)) - (await at(directions, -step))) / (2 * step);
    let got = 0;
    let size = 0;
    for (const [i, g] of gradients.entries())
      for (let j = 0; j < g.length; j++) {
        got += g[j]! * directions[i]![j]!;
        size += Math.abs(g[j]! * directions[i]![j]!);
      }
    assert.ok(size > 0, 'the gradient is zero');
    assert.ok(Math.abs(got - want) <= tolerance * size, `direction ${k}: ${got} instead of ${want}`);
  }
  for (const [i, t] of of.entries()) t.write(start[i]!);
}
