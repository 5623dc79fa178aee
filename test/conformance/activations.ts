/** Activations and gradients that live on the device until a case compares them. */
import type { Module, Tap } from '../../lib/nn/module.js';
import type { Gradients } from '../../lib/tape.js';
import type { Tensor } from '../../lib/tensor.js';
import { download, type HostArray } from './array.js';
import type { GoldenCase } from './case.js';

/** Keeps the activations that a case asks for under `prefix` + their name. */
export class Activations {
  private readonly kept = new Map<string, Tensor>();

  constructor(
    private readonly c: GoldenCase,
    private readonly prefix: string,
  ) {}

  readonly tap: Tap = (name, value) => {
    const key = this.prefix + name;
    if (!this.c.wants(key)) return;
    this.kept.get(key)?.dispose();
    this.kept.set(key, value.retain());
  };

  /** Compares what was kept, in the golden file's axis order, and lets go of it. */
  async give(arrange: (array: HostArray, name: string) => HostArray = (array) => array): Promise<void> {
    for (const [name, tensor] of this.kept) this.c.give(name, arrange(await download(tensor), name));
    this.dispose();
  }

  dispose(): void {
    for (const tensor of this.kept.values()) tensor.dispose();
    this.kept.clear();
  }
}

/** The gradient of a watched tensor; zero where the loss does not depend on it. */
export async function gradientOf(gradients: Gradients, tensor: Tensor): Promise<HostArray> {
  const gradient = gradients.get(tensor);
  return gradient ? download(gradient) : { shape: tensor.shape, data: new Float64Array(tensor.size) };
}

/** Compares the gradients of all parameters that a case asks for under `prefix` + their official name. */
export async function giveParameterGradients(
  c: GoldenCase,
  prefix: string,
  module: Module,
  gradients: Gradients,
): Promise<void> {
  for (const [name, tensor] of module.namedParameters())
    if (c.wants(prefix + name)) c.give(prefix + name, await gradientOf(gradients, tensor));
}

/** The two digests that stand for gradients too many to store: L2 norm and sum of each, in the order of `names`. */
export async function giveGradientDigests(
  c: GoldenCase,
  names: readonly string[],
  module: Module,
  gradients: Gradients,
): Promise<void> {
  const parameters = new Map(module.namedParameters());
  const norms: number[] = [];
  const sums: number[] = [];
  for (const name of names) {
    const parameter = parameters.get(name);
    if (!parameter) throw new Error(`the network has no parameter ${name}`);
    let [square, sum] = [0, 0];
    for (const value of (await gradientOf(gradients, parameter)).data) {
      square += Number(value) ** 2;
      sum += Number(value);
    }
    norms.push(Math.sqrt(square));
    sums.push(sum);
  }
  c.give('out.grad_l2_all', norms);
  c.give('out.grad_sum_all', sums);
}
