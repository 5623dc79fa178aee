/** One training step of the tokenizer after BitVAE: losses and gradients, by the trainer's own code. The perceptual network is a constant 0. */
import { add, scale } from '../../../lib/ops/elementwise.js';
import { Tape } from '../../../lib/tape.js';
import { Tensor } from '../../../lib/tensor.js';
import { Autoencoder } from '../../../lib/tokenizer/autoencoder.js';
import { parseAutoencoderConfig } from '../../../lib/tokenizer/config.js';
import { MultiScaleQuantizer } from '../../../lib/tokenizer/quantizer.js';
import type { ScaleSchedule } from '../../../lib/tokenizer/schedule.js';
import { tokenizerLosses } from '../../../lib/training/tokenizer_losses.js';
import { Activations, giveGradientDigests, giveParameterGradients, gradientOf } from '../activations.js';
import { channelsFirst, channelsLast, download, upload } from '../array.js';
import { CaseError, type GoldenCase } from '../case.js';
import { goldenMap } from './quantizer.js';
import { pickQuantizerOptions, quantizerConfig } from './quantizer_config.js';
import { trainDraws } from './quantizer_draws.js';
import { readScalars } from './quantizer_training.js';

interface StepFields {
  readonly config: {
    readonly full_args: Readonly<Record<string, unknown>> & {
      readonly codebook_dim: number;
      readonly recon_loss_type: string;
      readonly quantizer_type?: string;
      readonly l1_weight: number;
      readonly lfq_weight: number;
      readonly commitment_loss_weight: number;
      readonly compute_all_commitment?: boolean;
    };
    readonly scale_schedule: ScaleSchedule;
    readonly param_names?: readonly string[];
  };
}

/** Parts of the published trainer that this library does not have. Its `gan_feat_weight` and `kl_weight` weigh nothing there. */
const MUST_BE_OFF = [
  'image_gan_weight',
  'use_out_phi',
  'use_out_phi_res',
  'drop_when_test',
  'random_short_schedule',
  'uniform_short_schedule',
];

export async function bitvaeStep(c: GoldenCase): Promise<void> {
  const { full_args: args, scale_schedule: schedule, param_names = [] } = c.fields<StepFields>().config;
  for (const name of MUST_BE_OFF) if (args[name]) throw new CaseError(`the option ${name} is not known`);
  if ((args.quantizer_type ?? 'MultiScaleBSQ') !== 'MultiScaleBSQ')
    throw new CaseError(`unknown quantizer_type ${args.quantizer_type}`);
  // Whatever is not "l1" is the squared error there.
  const isL1 = args.recon_loss_type === 'l1';
  const allWeight = args.lfq_weight * args.commitment_loss_weight;
  const options = pickQuantizerOptions(args);
  using model = new Autoencoder(parseAutoencoderConfig(args));
  model.load(await c.weights());
  using quantizer = new MultiScaleQuantizer(quantizerConfig(args.codebook_dim, options)).load(new Map());
  using image = upload(channelsLast(c.array('in.image')));
  const draws = c.has('in.random_draws') ? c.numbers('in.random_draws') : [];
  const { train, owned } = trainDraws(c, options, schedule.length, draws);

  const scales = new Activations(c, 'out.');
  const tape = new Tape().watch(...[...model.namedParameters()].map(([, parameter]) => parameter));
  const seen = tape.run(() => {
    const weights = {
      l1: isL1 ? args.l1_weight : 0,
      l2: isL1 ? 0 : args.l1_weight,
      quantizer: args.lfq_weight,
      // Only asked for a gradient by an option, and reported in the total anyway.
      residual: args.compute_all_commitment ? allWeight : 0,
    };
    const tap = (name: string, value: Tensor): void => {
      if (name === 'features') tape.watch(value);
      else scales.tap(name, value);
    };
    return tokenizerLosses({ autoencoder: model, quantizer }, weights, image, schedule, { ...train, tap });
  });
  using one = Tensor.from([1], []);
  const found = tape.backward([{ of: seen.total, cotangent: one }]);
  const { terms } = seen;
  using reconLoss = scale(isL1 ? terms.l1 : terms.l2, args.l1_weight);
  using commitment = scale(terms.quantizer, args.lfq_weight);
  using all = scale(terms.residual, allWeight);
  using total = args.compute_all_commitment ? seen.total.view([]) : add(seen.total, all);

  c.give('out.features', goldenMap(await download(seen.features)));
  c.give('out.quantized', goldenMap(await download(seen.quantized)));
  c.give('out.recon', goldenMap(await download(seen.image)));
  c.give('out.kept_scales', seen.kept);
  c.give('out.scale_losses', await readScalars(seen.losses));
  await scales.give(goldenMap);
  c.give('out.loss.perceptual_loss', 0);
  c.give('out.loss.recon_loss', await download(reconLoss, [1]));
  c.give('out.loss.commitment_loss', await download(commitment, [1]));
  c.give('out.loss.all_commitment_loss', await download(all, [1]));
  c.give('out.loss.total', await download(total, [1]));
  c.give('out.grad_features', channelsFirst(await gradientOf(found, seen.features)));
  await giveParameterGradients(c, 'out.grad.', model, found);
  await giveGradientDigests(c, param_names, model, found);
  found.dispose();
  const { features, quantized, image: recon, losses } = seen;
  for (const tensor of [features, quantized, recon, seen.total, ...losses, ...Object.values(terms), ...owned])
    tensor.dispose();
}
