/** Linear layers with official names, and norms that the products around them carry out. */
import { type Epilogue, linear, type PackedWeight, packLinear } from '../ops/linear.js';
import { linearMeasured, linearNormed, type ScaledRows } from '../ops/linear_norm.js';
import { cast } from '../ops/shape.js';
import { Tensor } from '../tensor.js';
import { type Init, zeros } from './init.js';
import { Module, type WeightFormat } from './module.js';

/** Initial values, and whether there is a bias. */
export interface LinearOptions {
  readonly init: Init;
  /** Default true: a parameter `bias`. */
  readonly bias?: boolean;
}

/** A norm that the products around it carry out, with its scale and shift: see lib/ops/linear_norm.ts. */
export interface FoldedNorm {
  readonly eps: number;
  readonly centred: boolean;
  /** Scale and shift, f32 [B or 1, 2, C]. */
  readonly affine_G2C: Tensor;
  /** Both behind the weights of each layer that reads the norm, f32 [B or 1, 2, N]. */
  readonly projected: ReadonlyMap<Linear, Tensor>;
}

/** Rows that a product left for a norm. */
export interface MeasuredRows extends ScaledRows {
  readonly norm: FoldedNorm;
}

/** What a layer reads: rows [..., in], or rows that it normalises itself. */
export type LayerInput = Tensor | MeasuredRows;

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
  forward(x: Tensor, epilogue?: Epilogue): Tensor;
  forward(x: LayerInput, epilogue?: { readonly gelu: true }): Tensor;
  forward(x: LayerInput, epilogue?: Epilogue): Tensor {
    return x instanceof Tensor
      ? this.product(x, this.bias, epilogue)
      : this.normed(x, this.bias, epilogue !== undefined);
  }

  /** For layers whose bias is assembled elsewhere. */
  forwardWithBias(x: LayerInput, bias: Tensor | null): Tensor {
    return x instanceof Tensor ? this.product(x, bias) : this.normed(x, bias, false);
  }

  private product(x: Tensor, bias: Tensor | null, epilogue?: Epilogue): Tensor {
    return linear(x, this.packed ?? cast(this.weight, this.dtype), bias, epilogue);
  }

  private normed(rows: MeasuredRows, bias: Tensor | null, gelu: boolean): Tensor {
    const { projected, eps, centred } = rows.norm;
    return linearNormed(rows, this.packed!, bias, projected.get(this)!, { eps, centred, gelu });
  }

  /** Of a frozen layer on a card: the residual sum, and what the layers behind a norm of it read. */
  measured(
    x: Tensor,
    onto: { readonly residual: Tensor; readonly gate?: Tensor | undefined },
    affine_G2C: Tensor,
  ): ScaledRows & { readonly sum: Tensor } {
    return linearMeasured(x, this.packed!, this.bias, onto, affine_G2C);
  }

  /** Of a frozen layer: `weight` times rows in f32, without the bias. */
  project(rows: Tensor): Tensor {
    return linear(rows, this.packed!);
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

/** The norm as products carry it out whose layers are frozen and on a card. */
export function foldNorm(
  { eps, centred }: Pick<FoldedNorm, 'eps' | 'centred'>,
  affine_G2C: Tensor,
  readers: readonly Linear[],
): FoldedNorm {
  return { eps, centred, affine_G2C, projected: new Map(readers.map((layer) => [layer, layer.project(affine_G2C)])) };
}

export const tensorsOfNorm = ({ affine_G2C, projected }: FoldedNorm): Tensor[] => [affine_G2C, ...projected.values()];
