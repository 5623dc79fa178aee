/**
 * The perceptual distance of the tokenizer's loss: LPIPS over VGG-16. Sources: Zhang et al. 2018 with the linear heads of
 * PerceptualSimilarity v0.1; BitVAE, bitvae/modules/lpips.py.
 */
import { Conv2d } from '../nn/conv.js';
import { constant } from '../nn/init.js';
import { Module } from '../nn/module.js';
import { add, mul, relu, square, sub } from '../ops/elementwise.js';
import { maxPool2x2 } from '../ops/pool.js';
import { l2Normalize } from '../ops/quantize.js';
import { meanAxis, sum } from '../ops/reduce.js';
import { reshape } from '../ops/shape.js';
import { type Shape, scope, Tensor, unscoped } from '../tensor.js';

/** Convolutions of each block; a pooling stands between two blocks. */
const BLOCKS = [2, 2, 3, 3, 3];
/** Channels of the blocks of VGG-16. */
const VGG16_WIDTHS = [64, 128, 256, 512, 512];
/** What VGG's training made of pictures in [-1, 1], a channel. */
const SHIFT = [-0.03, -0.088, -0.188];
const SCALE = [0.458, 0.448, 0.45];

/** Numbers of the convolutions of each block in torchvision's sequence, in which activations and poolings count too. */
const LAYERS: readonly (readonly number[])[] = BLOCKS.map((count, block) => {
  const first = BLOCKS.slice(0, block).reduce((at, convs) => at + 2 * convs + 1, 0);
  return Array.from({ length: count }, (_, i) => first + 2 * i);
});

/** This network's name of a tensor in any of the files that hold it: torchvision's VGG-16, LPIPS heads, or both in a training checkpoint. */
export function lpipsName(name: string): string | undefined {
  const conv = /(?:^|\.)(?:features|net\.slice\d)\.(\d+)\.(weight|bias)$/.exec(name);
  if (conv) return `features.${conv[1]}.${conv[2]}`;
  const head = /(?:^|\.)lin(\d)\.model\.\d\.weight$/.exec(name);
  return head ? `lin${head[1]}.weight` : undefined;
}

/** The widths of a VGG in the layout of VGG-16, as its tensors tell them. */
export function vggWidths(shapes: ReadonlyMap<string, Shape>): number[] {
  return LAYERS.map(([first], block) => shapes.get(`features.${first}.weight`)?.[0] ?? VGG16_WIDTHS[block]!);
}

/** VGG-16's convolutions with a linear head on each block; nothing here is trained. */
export class Lpips extends Module {
  private readonly blocks: readonly (readonly Conv2d[])[];
  private readonly heads: readonly Tensor[];
  private readonly shift: Tensor;
  private readonly gain: Tensor;

  constructor(widths: readonly number[] = VGG16_WIDTHS) {
    super();
    let inputs = 3;
    this.blocks = LAYERS.map((layers, block) =>
      layers.map((at) => {
        const conv = this.child(`features.${at}`, new Conv2d(inputs, widths[block]!, { kernel: 3 }));
        inputs = widths[block]!;
        return conv;
      }),
    );
    this.heads = widths.map((width, i) => this.parameter(`lin${i}.weight`, [1, width, 1, 1], constant(1 / width)));
    const row = (values: readonly number[]): Tensor =>
      this.keep(unscoped(() => Tensor.from(values, [3], this.dtype, this.device)));
    this.shift = row(SHIFT);
    this.gain = row(SCALE.map((s) => 1 / s));
  }

  /** The classifier, and other parts of a training checkpoint. */
  protected override ignores(name: string): boolean {
    return lpipsName(name) === undefined;
  }

  /** What each block sees after its last activation, as unit vectors over the channels. */
  private features(image_BHWC: Tensor): Tensor[] {
    let x = mul(sub(image_BHWC, this.shift), this.gain);
    return this.blocks.map((convs, block) => {
      if (block > 0) x = maxPool2x2(x);
      for (const conv of convs) x = relu(conv.forward(x));
      return l2Normalize(x);
    });
  }

  /**
   * Mean over the batch of the distance of two pictures.
   * @param image_BHWC in [-1, 1] or beyond, at least 16 pixels along each side
   * @param original_BHWC as `image_BHWC`
   * @returns []
   */
  distance(image_BHWC: Tensor, original_BHWC: Tensor): Tensor {
    return scope(() => {
      const originals = this.features(original_BHWC);
      return this.features(image_BHWC)
        .map((features, block) => {
          const differences = square(sub(features, originals[block]!));
          const channels = features.shape.at(-1)!;
          const means_C = meanAxis(reshape(differences, [differences.size / channels, channels]), 0);
          return sum(mul(means_C, reshape(this.heads[block]!, [channels])));
        })
        .reduce(add);
    });
  }
}
