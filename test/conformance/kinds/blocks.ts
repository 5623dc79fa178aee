/** Building blocks of the autoencoder with all their gradients. */
import type { Module } from '../../../lib/nn/module.js';
import { Tape } from '../../../lib/tape.js';
import type { Tensor } from '../../../lib/tensor.js';
import { AttnBlock, Downsample, Normalize, ResnetBlock, Upsample } from '../../../lib/tokenizer/blocks.js';
import { giveParameterGradients, gradientOf } from '../activations.js';
import { channelsFirst, channelsLast, download, upload } from '../array.js';
import { CaseError, type GoldenCase } from '../case.js';

interface BlockFields {
  readonly name: string;
  readonly type: string;
  readonly in_channels: number;
  readonly out_channels: number;
}

type Block = Module & { forward(x_BHWC: Tensor): Tensor };

function build({ type, in_channels, out_channels }: BlockFields): Block {
  switch (type) {
    case 'ResnetBlock':
      return new ResnetBlock(in_channels, out_channels);
    case 'Downsample':
      return new Downsample(in_channels);
    case 'Upsample':
      return new Upsample(in_channels);
    case 'Normalize':
      return new Normalize(in_channels);
    case 'AttnBlock':
      return new AttnBlock(in_channels);
    default:
      throw new CaseError(`unknown block type ${type}`);
  }
}

export async function blocks(c: GoldenCase): Promise<void> {
  const { config } = c.fields<{ config: { blocks: readonly BlockFields[] } }>();
  for (const fields of config.blocks) {
    const { name } = fields;
    using block = build(fields);
    block.load(await c.weights(`${name}.`));
    using x = upload(channelsLast(c.array(`in.${name}.x`)));
    using cotangent = upload(channelsLast(c.array(`in.${name}.cotangent`)));
    const tape = new Tape().watch(x, ...[...block.namedParameters()].map(([, parameter]) => parameter));
    using y = tape.run(() => block.forward(x));
    c.give(`out.${name}.y`, channelsFirst(await download(y)));
    const gradients = tape.backward([{ of: y, cotangent }]);
    c.give(`out.${name}.grad_x`, channelsFirst(await gradientOf(gradients, x)));
    await giveParameterGradients(c, `out.${name}.grad.`, block, gradients);
    gradients.dispose();
  }
}
