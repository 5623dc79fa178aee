/** One training step of the tokenizer after BitVAE: losses and gradients. The perceptual network is a constant 0. */
import { add, scale } from '../../../lib/ops/elementwise.js';
import { l1Loss, l2Loss } from '../../../lib/ops/loss.js';
import { Tape } from '../../../lib/tape.js';
import { Tensor } from '../../../lib/tensor.js';
import { Autoencoder } from '../../../lib/tokenizer/autoencoder.js';
import { parseAutoencoderConfig } from '../../../lib/tokenizer/config.js';
import { MultiScaleQuantizer } from '../../../lib/tokenizer/quantizer.js';
import type { ScaleSchedule } from '../../../lib/tokenizer/schedule.js';
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
  const reconstruction = args.recon_loss_type === 'l1' ? l1Loss : l2Loss;
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
    const features = model.encode(image);
    tape.watch(features);
    const { quantized, loss, losses, kept } = quantizer.train(features, schedule, { ...train, tap: scales.tap });
    const recon = model.decodeUnclamped(quantized);
    const reconLoss = scale(reconstruction(recon, image), args.l1_weight);
    const commitment = scale(loss, args.lfq_weight);
    // A view is unknown to the tape: the sum is a constant here.
    const all = scale(l2Loss(features, quantized.view(quantized.shape)), args.lfq_weight * args.commitment_loss_weight);
    return {
      features,
      quantized,
      recon,
      losses,
      kept,
      reconLoss,
      commitment,
      all,
      total: add(add(reconLoss, commitment), all),
    };
  });
  using one = Tensor.from([1], []);
  // The commitment of the whole sum is reported in the total, and only asked for a gradient by an option.
  const trained = [seen.reconLoss, seen.commitment, ...(args.compute_all_commitment ? [seen.all] : [])];
  const found = tape.backward(trained.map((of) => ({ of, cotangent: one })));

  c.give('out.features', goldenMap(await download(seen.features)));
  c.give('out.quantized', goldenMap(await download(seen.quantized)));
  c.give('out.recon', goldenMap(await download(seen.recon)));
  c.give('out.kept_scales', seen.kept);
  c.give('out.scale_losses', await readScalars(seen.losses));
  await scales.give(goldenMap);
  c.give('out.loss.perceptual_loss', 0);
  c.give('out.loss.recon_loss', await download(seen.reconLoss, [1]));
  c.give('out.loss.commitment_loss', await download(seen.commitment, [1]));
  c.give('out.loss.all_commitment_loss', await download(seen.all, [1]));
  c.give('out.loss.total', await download(seen.total, [1]));
  c.give('out.grad_features', channelsFirst(await gradientOf(found, seen.features)));
  await giveParameterGradients(c, 'out.grad.', model, found);
  await giveGradientDigests(c, param_names, model, found);
  found.dispose();
  const { kept: _, losses, ...tensors } = seen;
  for (const tensor of [...Object.values(tensors), ...losses, ...owned]) tensor.dispose();
}
