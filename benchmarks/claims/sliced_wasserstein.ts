/**
 * A distance between two sets of points that needs no network: the sliced Wasserstein distance. Source: Rabin, Peyré, Delon, Bernot,
 * Wasserstein barycenter and its application to texture mixing (2011).
 */
import { CounterRandom } from '../../lib/data/shapes/random.js';

const PROJECTIONS = 256;

/** A direction drawn evenly from the sphere. */
function direction(random: CounterRandom, width: number): Float64Array {
  const normal = (): number =>
    Math.sqrt(-2 * Math.log(1 - random.uniform())) * Math.cos(2 * Math.PI * random.uniform());
  const axis = Float64Array.from({ length: width }, normal);
  const length = Math.hypot(...axis);
  return axis.map((a) => a / length);
}

function projected(points: Float32Array, axis: Float64Array): Float64Array {
  const width = axis.length;
  const at = new Float64Array(points.length / width);
  for (let i = 0; i < at.length; i++) for (let j = 0; j < width; j++) at[i]! += points[i * width + j]! * axis[j]!;
  return at.sort();
}

/**
 * Root of the mean squared distance between the sorted projections of both sets on random directions; 0 for equal sets.
 * @param a points [n, width], as many as `b`
 */
export function slicedWasserstein(
  a: Float32Array,
  b: Float32Array,
  { width, seed }: { width: number; seed: number },
): number {
  if (a.length !== b.length)
    throw new RangeError(`Expected two sets of one size but received ${a.length} and ${b.length} numbers.`);
  const random = new CounterRandom(seed);
  let squares = 0;
  for (let p = 0; p < PROJECTIONS; p++) {
    const axis = direction(random, width);
    const [x, y] = [projected(a, axis), projected(b, axis)];
    for (let i = 0; i < x.length; i++) squares += (x[i]! - y[i]!) ** 2 / x.length;
  }
  return Math.sqrt(squares / PROJECTIONS);
}
