import { unpackBits } from '../../../lib/ops/bits.js';
import { Tensor } from '../../../lib/tensor.js';
import { patchifySchedule, type ScaleSchedule, tokenCount } from '../../../lib/tokenizer/schedule.js';
import { lrFactor, weightDecayAt } from '../../../lib/training/lr_schedule.js';
import { AdamW } from '../../../lib/training/optimizer.js';
import { hasWeightDecay } from '../../../lib/training/parameter_groups.js';
import { type MeasuredTokens, scaleMetrics, type TokenMetrics } from '../../../lib/training/scale_metrics.js';
import { type MicroBatch, TransformerUpdate } from '../../../lib/training/transformer_update.js';
import { tokenBits } from '../../../lib/transformer/config.js';
import type { ForwardOptions, InfinityTransformer } from '../../../lib/transformer/infinity.js';
import { giveParameterGradients } from '../activations.js';
import { channelsLast, download, numbers, upload } from '../array.js';
import type { GoldenCase } from '../case.js';
import { uniformOfScales } from './self_correction.js';
import { finestOf, loadTransformer, type TransformerFields, textFeatures } from './transformer_config.js';

interface TrainFields extends TransformerFields {
  readonly options: {
    readonly betas: readonly [number, number];
    readonly tlr: number;
    readonly twd: number;
    readonly twde: number;
    readonly tclip: number;
    readonly ac: number;
    readonly ls: number;
    readonly bitloss: 'mean' | 'sum';
    readonly reweight: number;
    readonly layers: number;
    readonly strength: number;
    readonly requant: number;
    readonly sche: string;
    readonly wp_it: number;
    readonly wp0: number;
    readonly wpe: number;
    readonly max_it: number;
  };
  readonly micro_batches: readonly {
    readonly g_it: number;
    readonly stepping: boolean;
    readonly noise_int_draws: readonly number[];
  }[];
}

interface Pass {
  readonly index: number;
  readonly batch: MicroBatch;
  readonly given: Omit<ForwardOptions, 'schedule'>;
}

export async function trainStep(c: GoldenCase): Promise<void> {
  const fields = c.fields<TrainFields>();
  const { options, micro_batches } = fields;
  using model = await loadTransformer(c);
  giveParameterGroups(c, model);
  const optimizer = await AdamW.create(model.namedParameters(), {
    betas: options.betas,
    clip: clipOf(options.tclip),
  });
  const { layers, strength, requant } = options;
  const update = new TransformerUpdate(model, optimizer, {
    correction: { layers, strength, requant: Boolean(requant) },
    reweight: Boolean(options.reweight),
    reduction: options.bitloss,
    labelSmoothing: options.ls,
  });
  try {
    for (const [m, { stepping, g_it }] of micro_batches.entries()) {
      const pass = await prepare(c, fields, model, update, m);
      giveRates(c, fields, m);
      await measure(c, fields, model, update, pass);
      for (const tensor of [pass.batch.inputs_BLD, pass.batch.labels_BLP, pass.given.text.kv_NCt]) tensor?.dispose();
      if (stepping) await finish(c, fields, { model, optimizer, update }, m, g_it);
    }
    for (const [name, tensor] of optimizer.stateTensors()) {
      const golden = name.replace(/^m\./, 'adam.exp_avg.').replace(/^v\./, 'adam.exp_avg_sq.');
      if (c.wants(golden)) c.give(golden, await download(tensor));
    }
  } finally {
    update.dispose();
    optimizer.dispose();
  }
}

/** The largest norm as the official optimizer reads its option: 0 is no clipping, and of numbers above 100 it takes the remainder. */
function clipOf(tclip: number): number {
  if (tclip <= 0) return Number.POSITIVE_INFINITY;
  return tclip > 100 ? tclip % 100 || Number.MIN_VALUE : tclip;
}

/** Inputs and labels of a micro-batch from its features and the recorded noise. */
async function prepare(
  c: GoldenCase,
  fields: TrainFields,
  model: InfinityTransformer,
  update: TransformerUpdate,
  m: number,
): Promise<Pass> {
  const { scale_schedule: schedule, micro_batches } = fields;
  const patchify = model.config.apply_spatial_patchify;
  const latent = patchify ? patchifySchedule(schedule) : schedule;
  using features = upload(channelsLast(c.array(`mb${m}.raw_features`)));
  const [B, , , d] = features.shape as [number, number, number, number];
  const percents = micro_batches[m]!.noise_int_draws;
  // A recorded mask says which bits change: a number below every strength where it is 1, above every one where it is 0.
  const uniform = latent.map((_, k) => {
    const name = c.drawsOf('flip_mask', 'mb{m}.flip_mask.s{k}', { m, k });
    if (!c.has(name)) return undefined;
    const { shape, data } = c.array(name);
    return { shape, data: Uint8Array.from(data as Uint8Array, (flipped) => 1 - flipped) };
  });
  using flips = Tensor.from(uniformOfScales(uniform, latent, B, d), [B, tokenCount(latent), d]);
  const batch = update.prepare(features, schedule, { percents, flips });
  using bits = unpackBits(batch.labels_BLP, tokenBits(model.config));
  c.give(`mb${m}.gt_bits`, await download(bits));
  if (batch.inputs_BLD) c.give(`mb${m}.x_BLC_wo_prefix`, await download(batch.inputs_BLD));
  c.giveJson(['micro_batches', m, 'noise_strengths'], batch.strengths.slice(0, percents.length));
  return { index: m, batch, given: { text: textFeatures(c, `mb${m}.`), finest: finestOf(fields) } };
}

/** Loss of a micro-batch; its gradients join those of the update. */
async function measure(
  c: GoldenCase,
  { options, scale_schedule: schedule }: TrainFields,
  model: InfinityTransformer,
  update: TransformerUpdate,
  { index, batch, given }: Pass,
): Promise<void> {
  if (c.wants(`mb${index}.logits`)) {
    using logits = model.forward(batch.inputs_BLD, { ...given, schedule });
    c.give(`mb${index}.logits`, await download(logits));
  }
  const out = update.accumulate(batch, 1 / options.ac, () => given);
  const loss = await download(out.loss, [1]);
  c.give(`mb${index}.loss`, loss);
  c.giveJson(['micro_batches', index, 'loss'], numbers(loss)[0]);
  const summed = options.bitloss === 'sum' ? tokenBits(model.config) : 1;
  const perToken = numbers(await download(out.perToken)).map((value) => value / summed);
  giveMetrics(c, index, model, schedule, { perToken, correct: numbers(await download(out.correct)) });
  for (const tensor of Object.values(out) as Tensor[]) tensor.dispose();
}

/** The step of the optimizer after the last micro-batch of an update. */
async function finish(
  c: GoldenCase,
  fields: TrainFields,
  { model, optimizer, update }: { model: InfinityTransformer; optimizer: AdamW; update: TransformerUpdate },
  last: number,
  iteration: number,
): Promise<void> {
  const step = optimizer.step + 1;
  await giveParameterGradients(c, `grad_step${step}.`, model, update.gradients);
  using norm = update.update(ratesAt(fields, iteration));
  // Where the official optimizer does not clip, it has no norm to report but the constant that it starts with.
  const size = fields.options.tclip > 0 ? numbers(await download(norm))[0] : Math.fround(0.1);
  c.giveJson(['micro_batches', last, 'grad_norm_before_clip'], size);
  c.giveJson(['micro_batches', last, 'metrics', 'Overall/grad_norm_t'], size);
  for (const [name, parameter] of model.namedParameters())
    if (c.wants(`after_step${step}.${name}`)) c.give(`after_step${step}.${name}`, await download(parameter));
}

function ratesAt({ options }: TrainFields, iteration: number): { lr: number; weightDecay: number } {
  const schedule = {
    schedule: options.sche,
    warmupIterations: options.wp_it,
    maxIterations: options.max_it,
    startFactor: options.wp0,
    endFactor: options.wpe,
  };
  return {
    lr: options.tlr * lrFactor(iteration, schedule),
    weightDecay: weightDecayAt(iteration, options.max_it, options.twd, options.twde),
  };
}

function giveRates(c: GoldenCase, fields: TrainFields, m: number): void {
  const { lr, weightDecay } = ratesAt(fields, fields.micro_batches[m]!.g_it);
  // Official: the smallest decay among the groups that have any, -1 where none has.
  const range = weightDecay > 0 ? [weightDecay, weightDecay] : [-1, 0];
  c.giveJson(['micro_batches', m, 'min_max_lr_wd'], [lr, lr, ...range]);
  c.giveJson(
    ['micro_batches', m, 'group_lr_wd'],
    [
      [lr, 0],
      [lr, weightDecay],
    ],
  );
}

/** The group without weight decay comes first, as its first member does in the network. */
function giveParameterGroups(c: GoldenCase, model: InfinityTransformer): void {
  const parameters = [...model.namedParameters()];
  for (const [g, decays] of [false, true].entries()) {
    const params = parameters.filter(([name, { rank }]) => hasWeightDecay(name, rank) === decays).map(([name]) => name);
    c.giveJson(['param_groups', g], { wd_sc: Number(decays), lr_sc: 1, params });
  }
}

/** What the official trainer logs: loss (the mean over bits, whatever the loss that is trained), percentage of right bits and of right tokens, over all tokens and for each scale. */
function giveMetrics(
  c: GoldenCase,
  m: number,
  model: InfinityTransformer,
  schedule: ScaleSchedule,
  measured: MeasuredTokens,
): void {
  // The official metric asks for the bits of one latent position, also where a token holds four.
  const { all, scales } = scaleMetrics(measured, schedule, tokenBits(model.config), model.config.vae_embed_dim);
  const give = (group: string, suffix: string, { loss, bitAccuracy, tokenAccuracy }: TokenMetrics) => {
    const metric = (name: string, value: number) =>
      c.giveJson(['micro_batches', m, 'metrics', `${group}/${name}_${suffix}`], value);
    metric('L', loss);
    metric('Acc_bit', 100 * bitAccuracy);
    metric('Acc_token', 100 * tokenAccuracy);
  };
  give('Overall', 'mean', all);
  for (const [k, metrics] of scales.entries()) give('Detail', `s${String(k + 1).padStart(2, '0')}`, metrics);
}
