/** Linear layers with official names, and branches whose last product takes the residual sum with it. */
import { add } from '../ops/elementwise.js';
import { type Epilogue, linear, type PackedWeight, packLinear } from '../ops/linear.js';
import { gatedAdd } from '../ops/norm.js';
import { recordsGradient } from '../ops/record.js';
import { cast } from '../ops/shape.js';
import type { Tensor } from '../tensor.js';
import { type Init, zeros } from './init.js';
import { Module, type WeightFormat } from './module.js';

/** Initial values, and whether there is a bias. */
export interface LinearOptions {
  readonly init: Init;
  /** Default true: a parameter `bias`. */
  readonly bias?: boolean;
}

/** y = x·weightᵀ + bias; weight [out, in]. */
export class Linear extends Module {
  private readonly weight: Tensor;
  private readonly bias: Tensor | null;
  private packed: PackedWeight | undefined;

  constructor(inputs: number, outputs: number, { init, bias = true }: LinearOptions) {
    super();
    this.weight = this.parameter('weight', [outputs, inputs], init);
    this.bias = bias ? this.parameter('bias', [outputs], zeros) : null;
  }

  /** x [..., in] -> [..., out]. */
  forward(x: Tensor, epilogue?: Epilogue): Tensor {
    return this.forwardWithBias(x, this.bias, epilogue);
  }

  /** For layers whose bias is assembled elsewhere. */
  forwardWithBias(x: Tensor, bias: Tensor | null, epilogue?: Epilogue): Tensor {
    return linear(x, this.packed ?? cast(this.weight, this.dtype), bias, epilogue);
  }

  /** Weight [out, in] and bias, for ops that fuse the product. @throws InfinityError DISPOSED after `freeze` */
  get operands(): { readonly weight: Tensor; readonly bias: Tensor | null } {
    return { weight: this.weight, bias: this.bias };
  }

  protected override pack(format: WeightFormat): void {
    this.packed = this.keep(packLinear(this.weight, { dtype: format }));
    this.weight.dispose();
  }
}

/** A sub-layer up to its last product, which is left to whoever adds its result to the residual stream. */
export type Branch = (epilogue?: Epilogue) => Tensor;

/**
 * x + branch · gate; the gate [B, 1, C] is optional. The sum is taken inside the branch's last product, unless somebody looks
 * at the branch or differentiates it.
 */
export function addBranch(x_BLC: Tensor, branch: Branch, gate_B1C?: Tensor, look?: (y_BLC: Tensor) => void): Tensor {
  if (!look && !recordsGradient(x_BLC, gate_B1C)) return branch({ residual: x_BLC, gate: gate_B1C });
  const y_BLC = branch();
  look?.(y_BLC);
  return gate_B1C ? gatedAdd(x_BLC, y_BLC, gate_B1C) : add(x_BLC, y_BLC);
}
