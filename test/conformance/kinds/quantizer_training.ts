/** The quantisers in training: losses, their parts, and gradients with respect to the features. */

import { scale } from '../../../lib/ops/elementwise.js';
import type { Penalties } from '../../../lib/ops/quantize.js';
import { reshape } from '../../../lib/ops/shape.js';
import { Tape } from '../../../lib/tape.js';
import { scope, Tensor } from '../../../lib/tensor.js';
import { integerLabels } from '../../../lib/tokenizer/bit_tokens.js';
import { MultiScaleQuantizer, type QuantizerTrainOptions } from '../../../lib/tokenizer/quantizer.js';
import type { ScaleSchedule } from '../../../lib/tokenizer/schedule.js';
import { Activations, gradientOf } from '../activations.js';
import { channelsFirst, channelsLast, download, type HostArray, upload } from '../array.js';
import type { GoldenCase } from '../case.js';
import { goldenMap } from './quantizer.js';
import { type QuantizerOptions, quantizerConfig, refuseUnknown } from './quantizer_config.js';
import { trainDraws } from './quantizer_draws.js';

/** What a gradient is taken of: results and their cotangents, a number for a scalar. */
type Cotangents = readonly (readonly [result: Tensor, cotangent: Tensor | number])[];

/** Gradient with respect to x of a weighted sum of results. */
async function gradient<T>(x: Tensor, forward: () => T, cotangents: (results: T) => Cotangents): Promise<HostArray> {
  const tape = new Tape().watch(x);
  const found = scope(() => {
    const results = tape.run(forward);
    return tape.backward(
      cotangents(results).map(([of, cotangent]) => ({
        of,
        cotangent: typeof cotangent === 'number' ? Tensor.from([cotangent], of.shape) : cotangent,
      })),
    );
  });
  const array = await gradientOf(found, x);
  found.dispose();
  return array;
}

/** Image form [B, d, h, w] or [B, d, 1, h, w], or sequence form [B, n, d], which is channels-last already. */
const isImage = (x: HostArray): boolean => x.shape.length >= 4;

interface Parts {
  readonly codes: Tensor;
  readonly bits: Tensor;
  readonly penalties: Penalties;
  readonly loss: Tensor;
}

/** Values of one quantiser call and the gradients of each of its parts. */
async function givePartsAndGradients(
  c: GoldenCase,
  forward: (x: Tensor) => Parts,
  lossWeight: number,
): Promise<Parts & { x: Tensor }> {
  const stored = c.array('in.x');
  const inward = (a: HostArray) => (isImage(stored) ? channelsLast(a) : a);
  const outward = (a: HostArray) => (isImage(stored) ? channelsFirst(a) : a);
  const x = upload(inward(stored));
  using cotangent = upload(inward(c.array('in.cotangent')));
  const parts = scope(() => forward(x));
  const { penalties, loss, codes } = parts;
  c.give('out.quantized', outward(await download(codes)));
  c.give('out.aux_loss', await download(loss, [1]));
  c.give('out.per_sample_entropy', await download(penalties.perSampleEntropy, [1]));
  c.give('out.codebook_entropy', await download(penalties.codebookEntropy, [1]));
  c.give('out.commitment', await download(penalties.commitment, [1]));
  c.give('out.avg_prob', await download(penalties.meanProbability));
  const gradients: Readonly<Record<string, (p: Parts) => Cotangents>> = {
    grad_aux_loss: (p) => [[p.loss, 1]],
    grad_per_sample_entropy: (p) => [[p.penalties.perSampleEntropy, 1]],
    grad_codebook_entropy: (p) => [[p.penalties.codebookEntropy, 1]],
    grad_commitment: (p) => [[p.penalties.commitment, 1]],
    grad_straight_through: (p) => [[p.codes, cotangent]],
    grad_total: (p) => [
      [p.loss, lossWeight],
      [p.codes, cotangent],
    ],
  };
  for (const [name, of] of Object.entries(gradients))
    if (c.wants(`out.${name}`)) c.give(`out.${name}`, outward(await gradient(x, () => forward(x), of)));
  return { ...parts, x };
}

function disposeParts({ codes, bits, penalties, loss, x }: Parts & { x: Tensor }): void {
  for (const tensor of [codes, bits, loss, x, ...Object.values(penalties)]) tensor.dispose();
}

interface BsqFields {
  readonly config: { readonly dim: number; readonly bsq_kwargs?: QuantizerOptions; readonly lfq_weight?: number };
}

export async function bsqTrain(c: GoldenCase): Promise<void> {
  const { dim, bsq_kwargs = {}, lfq_weight = 1 } = c.fields<BsqFields>().config;
  const config = quantizerConfig(dim, bsq_kwargs);
  // The official class reports no commitment where it has no weight.
  const weight = Number((config.commitmentWeight ?? 1) > 0);
  using quantizer = new MultiScaleQuantizer(config);
  const forward = (x: Tensor): Parts => {
    // Tokens in any arrangement are one scale of a quantiser.
    const rows = x.size / dim;
    const { quantized, loss, bits } = quantizer.train(reshape(x, [1, rows, 1, dim]), [[1, rows, 1]]);
    const penalties = quantizer.penalties(quantizer.code(x).z);
    const commitment = scale(penalties.commitment, weight);
    return { codes: reshape(quantized, x.shape), bits: bits[0]!, penalties: { ...penalties, commitment }, loss };
  };
  const parts = await givePartsAndGradients(c, forward, lfq_weight);
  c.give('out.bits', await download(parts.bits, parts.x.shape));
  disposeParts(parts);
}

interface LfqFields {
  readonly config: {
    readonly dim: number;
    readonly lfq_kwargs?: {
      readonly entropy_loss_weight?: number;
      readonly commitment_loss_weight?: number;
      readonly diversity_gamma?: number;
      readonly spherical?: boolean;
      readonly codebook_scale?: number;
    };
    readonly inv_temperature?: number;
    readonly lfq_weight?: number;
  };
}

export async function lfqTrain(c: GoldenCase): Promise<void> {
  const { dim, lfq_kwargs = {}, inv_temperature, lfq_weight = 1 } = c.fields<LfqFields>().config;
  const { entropy_loss_weight, commitment_loss_weight, diversity_gamma, spherical, codebook_scale, ...rest } =
    lfq_kwargs;
  refuseUnknown(rest, ['dim', 'codebook_size', 'force_quantization_f32']);
  using quantizer = new MultiScaleQuantizer({
    codebookDim: dim,
    kind: 'lfq',
    codebookScale: codebook_scale,
    spherical,
    entropyWeight: entropy_loss_weight,
    gamma: diversity_gamma,
    commitmentWeight: commitment_loss_weight,
    inverseTemperature: inv_temperature,
  });
  const forward = (x: Tensor): Parts => {
    const rows = x.size / dim;
    const { quantized, loss, bits } = quantizer.train(reshape(x, [1, rows, 1, dim]), [[1, rows, 1]]);
    const penalties = quantizer.penalties(quantizer.code(x).z);
    return { codes: reshape(quantized, x.shape), bits: reshape(bits[0]!, x.shape), penalties, loss };
  };
  const parts = await givePartsAndGradients(c, forward, lfq_weight);
  const { shape: bitShape, data } = await download(parts.bits);
  c.give('out.bits', { shape: bitShape, data });
  c.give('out.indices', { shape: bitShape.slice(0, -1), data: integerLabels(data as Uint8Array, dim) });
  disposeParts(parts);
}

interface MultiScaleFields {
  readonly config: {
    readonly dim: number;
    readonly quantizer_kwargs?: QuantizerOptions;
    readonly lfq_weight?: number;
    readonly scale_schedule: ScaleSchedule;
  };
}

export async function msbsqTrain(c: GoldenCase): Promise<void> {
  const { dim, quantizer_kwargs = {}, lfq_weight = 1, scale_schedule: schedule } = c.fields<MultiScaleFields>().config;
  using quantizer = new MultiScaleQuantizer(quantizerConfig(dim, quantizer_kwargs));
  quantizer.load(c.json.weights_file ? await c.weights() : new Map());
  using x = upload(channelsLast(c.array('in.x')));
  using cotangent = upload(channelsLast(c.array('in.cotangent')));
  const draws = c.has('in.random_draws') ? c.numbers('in.random_draws') : [];
  const { train, owned } = trainDraws(c, quantizer_kwargs, schedule.length, draws);

  const activations = new Activations(c, 'out.');
  const result = quantizer.train(x, schedule, { ...train, tap: beforeScales(activations, schedule.length) });
  c.give('out.quantized', goldenMap(await download(result.quantized)));
  c.give('out.kept_scales', result.kept);
  c.give('out.all_losses', await readScalars(result.losses));
  if (c.has('out.cumulative_before.0'))
    c.give('out.cumulative_before.0', zerosLike(c.array('out.cumulative_before.0')));
  await activations.give(goldenMap);
  for (const tensor of [result.quantized, result.loss, ...result.losses, ...result.bits]) tensor.dispose();

  const forward = () => quantizer.train(x, schedule, train);
  const gradients: Readonly<Record<string, (r: ReturnType<typeof forward>) => Cotangents>> = {
    grad_loss: (r) => [[r.loss, lfq_weight]],
    grad_straight_through: (r) => [[r.quantized, cotangent]],
    grad_total: (r) => [
      [r.loss, lfq_weight],
      [r.quantized, cotangent],
    ],
  };
  for (const [name, of] of Object.entries(gradients))
    if (c.wants(`out.${name}`)) c.give(`out.${name}`, goldenMap(await gradient(x, forward, of)));
  for (const tensor of owned) tensor.dispose();
}

/** The training files call `residual.k` `residual_before.k`, and store the sum before a scale where the quantiser shows it after. */
function beforeScales(activations: Activations, scales: number): QuantizerTrainOptions['tap'] {
  return (name, value) => {
    const [what, k] = name.split('.') as [string, string];
    if (what === 'residual') activations.tap(`residual_before.${k}`, value);
    else if (what === 'cumulative' && Number(k) + 1 < scales)
      activations.tap(`cumulative_before.${Number(k) + 1}`, value);
    else activations.tap(name, value);
  };
}

function zerosLike({ shape, data }: HostArray): HostArray {
  return { shape, data: new Float64Array(data.length) };
}

export async function readScalars(tensors: readonly Tensor[]): Promise<number[]> {
  const values: number[] = [];
  for (const tensor of tensors) values.push(Number((await download(tensor)).data[0]));
  return values;
}
