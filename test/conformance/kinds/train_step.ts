/** Training steps of the transformer with recorded noise: inputs, losses, gradients, parameters and moments after every update. */
import { Tape } from '../../../lib/tape.js';
import { scope, Tensor } from '../../../lib/tensor.js';
import { patchifySchedule, type ScaleSchedule, scaleOffsets, tokenCount } from '../../../lib/tokenizer/schedule.js';
import { lrFactor, weightDecayAt } from '../../../lib/training/lr_schedule.js';
import { AdamW } from '../../../lib/training/optimizer.js';
import { hasWeightDecay } from '../../../lib/training/parameter_groups.js';
import { BitwiseSelfCorrection, type SelfCorrected } from '../../../lib/training/self_correction.js';
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

interface MicroBatch {
  readonly index: number;
  readonly corrected: SelfCorrected;
  readonly options: ForwardOptions;
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
  try {
    let group: MicroBatch[] = [];
    for (const [m, { stepping }] of micro_batches.entries()) {
      group.push(await prepare(c, fields, model, m));
      giveRates(c, fields, m);
      if (!stepping && m + 1 < micro_batches.length) continue;
      await update(c, fields, model, optimizer, group);
      for (const { corrected, options: used } of group) {
        for (const tensor of [corrected.inputs_BLD, corrected.labels_BLD, corrected.sum_BHWd]) tensor?.dispose();
        used.text.kv_NCt.dispose();
      }
      group = [];
    }
    for (const [name, tensor] of optimizer.stateTensors()) {
      const golden = name.replace(/^m\./, 'adam.exp_avg.').replace(/^v\./, 'adam.exp_avg_sq.');
      if (c.wants(golden)) c.give(golden, await download(tensor));
    }
  } finally {
    optimizer.dispose();
  }
}

/** The largest norm as the official optimizer reads its option: 0 is no clipping, and of numbers above 100 it takes the remainder. */
function clipOf(tclip: number): number {
  if (tclip <= 0) return Number.POSITIVE_INFINITY;
  return tclip > 100 ? tclip % 100 || Number.MIN_VALUE : tclip;
}

/** Inputs and labels of a micro-batch from its features and the recorded noise. */
async function prepare(c: GoldenCase, fields: TrainFields, model: InfinityTransformer, m: number): Promise<MicroBatch> {
  const { options, scale_schedule: schedule, micro_batches } = fields;
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
  const { layers, strength, requant } = options;
  const correction = new BitwiseSelfCorrection({ layers, strength, requant: Boolean(requant), patchify });
  const corrected = correction.apply(features, schedule, { percents, flips });
  c.give(`mb${m}.gt_bits`, await download(corrected.labels_BLD));
  if (corrected.inputs_BLD) c.give(`mb${m}.x_BLC_wo_prefix`, await download(corrected.inputs_BLD));
  c.giveJson(['micro_batches', m, 'noise_strengths'], corrected.strengths.slice(0, percents.length));
  return { index: m, corrected, options: { text: textFeatures(c, `mb${m}.`), schedule, finest: finestOf(fields) } };
}

/** Losses and gradients of a group of micro-batches that share an update, and the update. */
async function update(
  c: GoldenCase,
  fields: TrainFields,
  model: InfinityTransformer,
  optimizer: AdamW,
  group: readonly MicroBatch[],
): Promise<void> {
  const { options, scale_schedule: schedule, micro_batches } = fields;
  const how = { schedule, reweight: Boolean(options.reweight), reduction: options.bitloss, labelSmoothing: options.ls };
  const tape = new Tape().watch(...optimizer.parameters);
  const passes = tape.run(() =>
    group.map(({ corrected, options: forward }) => {
      const hidden = model.hidden(corrected.inputs_BLD, forward);
      return { hidden, ...model.head.loss(hidden, corrected.labels_BLD, how) };
    }),
  );
  using cotangent = Tensor.from([1 / options.ac], []);
  const found = tape.backward(passes.map(({ loss }) => ({ of: loss, cotangent })));
  for (const [i, { index, corrected }] of group.entries()) {
    const pass = passes[i]!;
    if (c.wants(`mb${index}.logits`)) {
      using logits = scope(() => model.head.classify(pass.hidden));
      c.give(`mb${index}.logits`, await download(logits));
    }
    const loss = await download(pass.loss, [1]);
    c.give(`mb${index}.loss`, loss);
    c.giveJson(['micro_batches', index, 'loss'], numbers(loss)[0]);
    const B = corrected.labels_BLD.shape[0]!;
    const summed = options.bitloss === 'sum' ? corrected.labels_BLD.shape[2]! : 1;
    const perToken = numbers(await download(pass.perToken)).map((value) => value / summed);
    giveMetrics(c, index, model, schedule, B, perToken, numbers(await download(pass.correct)));
  }
  const last = group.at(-1)!.index;
  if (micro_batches[last]!.stepping) {
    const step = optimizer.step + 1;
    await giveParameterGradients(c, `grad_step${step}.`, model, found);
    using norm = optimizer.update(found, ratesAt(fields, micro_batches[last]!.g_it));
    // Where the official optimizer does not clip, it has no norm to report but the constant that it starts with.
    const size = options.tclip > 0 ? numbers(await download(norm))[0] : Math.fround(0.1);
    c.giveJson(['micro_batches', last, 'grad_norm_before_clip'], size);
    c.giveJson(['micro_batches', last, 'metrics', 'Overall/grad_norm_t'], size);
    for (const [name, parameter] of model.namedParameters())
      if (c.wants(`after_step${step}.${name}`)) c.give(`after_step${step}.${name}`, await download(parameter));
  }
  found.dispose();
  for (const pass of passes) for (const tensor of Object.values(pass)) tensor.dispose();
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
  B: number,
  perToken: readonly number[],
  correct: readonly number[],
): void {
  const offsets = scaleOffsets(schedule);
  const L = tokenCount(schedule);
  const bits = tokenBits(model.config);
  const mean = (values: readonly number[]) => values.reduce((a, v) => a + v, 0) / values.length;
  const give = (group: string, suffix: string, from: number, to: number) => {
    const tokens = Array.from({ length: B }, (_, b) =>
      Array.from({ length: to - from }, (_, i) => b * L + from + i),
    ).flat();
    const metric = (name: string, value: number) =>
      c.giveJson(['micro_batches', m, 'metrics', `${group}/${name}_${suffix}`], value);
    metric('L', mean(tokens.map((t) => perToken[t]!)));
    metric('Acc_bit', 100 * mean(tokens.map((t) => correct[t]! / bits)));
    // The official metric asks for the bits of one latent position, also where a token holds four.
    metric('Acc_token', 100 * mean(tokens.map((t) => Number(correct[t] === model.config.vae_embed_dim))));
  };
  give('Overall', 'mean', 0, L);
  for (const k of schedule.keys()) give('Detail', `s${String(k + 1).padStart(2, '0')}`, offsets[k]!, offsets[k + 1]!);
}
