/**
 * The patch discriminator of the tokenizer's training and its loss. Sources: BitVAE, bitvae/models/discriminator.py
 * (NLayerDiscriminator, after pix2pix) and bitvae/modules/loss.py; LeCam regularisation: Tseng et al. 2021, in BitVAE's form.
 */
import { Conv2d } from '../nn/conv.js';
import { normal } from '../nn/init.js';
import { Module } from '../nn/module.js';
import { BatchNorm } from '../nn/norm.js';
import { abs, add, addScalar, leakyRelu, relu, scale, square } from '../ops/elementwise.js';
import { mean } from '../ops/reduce.js';
import { scope, type Tensor } from '../tensor.js';

const SLOPE = 0.2;
const NORM_EPS = 1e-5;
const INIT = normal(0.02);
/** Widths double up to so many times the first. */
const MOST_WIDTHS = 8;
/** How far the mean score may lie from 0 before LeCam regularisation pulls at it. */
const LECAM_MARGIN = 0.1;

/** Shape of the network; official 128 and 3. */
export interface DiscriminatorShape {
  readonly base_ch: number;
  /** Convolutions that halve the picture. */
  readonly layers: number;
}

/** The shortest side of a picture that gives a score. */
export function smallestSide(layers: number): number {
  return 3 * 2 ** layers;
}

/** Scores overlapping patches of pictures. Statistics are those of the batch at hand; parameter names are the official ones. */
export class PatchDiscriminator extends Module {
  private readonly convs: readonly Conv2d[];
  private readonly norms: readonly BatchNorm[];

  constructor({ base_ch, layers }: DiscriminatorShape) {
    super();
    const width = (i: number): number => base_ch * Math.min(2 ** i, MOST_WIDTHS);
    const conv = (at: number, inputs: number, outputs: number, stride: 1 | 2, bias: boolean): Conv2d =>
      this.child(`main.${at}`, new Conv2d(inputs, outputs, { kernel: 4, stride, padding: 1, bias, init: INIT }));
    const convs = [conv(0, 3, base_ch, 2, true)];
    const norms: BatchNorm[] = [];
    // Every later layer is a convolution, a norm and an activation of the official sequence, in which only the last keeps the size.
    for (let i = 1; i <= layers; i++) {
      const at = 3 * i - 1;
      convs.push(conv(at, width(i - 1), width(i), i < layers ? 2 : 1, false));
      norms.push(this.child(`main.${at + 1}.norm`, new BatchNorm(width(i), NORM_EPS)));
    }
    convs.push(conv(3 * layers + 2, width(layers), 1, 1, true));
    this.convs = convs;
    this.norms = norms;
  }

  /** Pictures [B, H, W, 3] to scores [B, h, w, 1], large where a patch looks real. */
  forward(image_BHWC: Tensor): Tensor {
    return scope(() => {
      let x = leakyRelu(this.convs[0]!.forward(image_BHWC), SLOPE);
      for (const [i, norm] of this.norms.entries()) x = leakyRelu(norm.forward(this.convs[i + 1]!.forward(x)), SLOPE);
      return this.convs.at(-1)!.forward(x);
    });
  }
}

/**
 * What the discriminator makes small, []: the hinge loss, half of mean relu(1 - real) + mean relu(1 + fake), and `lecam` times
 * relu(|mean real| - 0.1)² + relu(|mean fake| - 0.1)².
 */
export function discriminatorLoss(real: Tensor, fake: Tensor, lecam: number): Tensor {
  const below = (scores: Tensor, sign: 1 | -1): Tensor => mean(relu(addScalar(scale(scores, sign), 1)));
  const drift = (scores: Tensor): Tensor => square(relu(addScalar(abs(mean(scores)), -LECAM_MARGIN)));
  return scope(() => {
    const hinge = scale(add(below(real, -1), below(fake, 1)), 0.5);
    return lecam === 0 ? hinge : add(hinge, scale(add(drift(real), drift(fake)), lecam));
  });
}
