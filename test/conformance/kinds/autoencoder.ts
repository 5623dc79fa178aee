/** The autoencoder: every stage, quantisation, reconstruction; and the gradients of its reconstruction loss. */
import { fromSignedFloat } from '../../../lib/io/pixels.js';
import type { HostTensor } from '../../../lib/nn/module.js';
import { add } from '../../../lib/ops/elementwise.js';
import { l1Loss, l2Loss } from '../../../lib/ops/loss.js';
import { Tape } from '../../../lib/tape.js';
import { Tensor } from '../../../lib/tensor.js';
import { Autoencoder } from '../../../lib/tokenizer/autoencoder.js';
import { sumOfBits } from '../../../lib/tokenizer/bit_tokens.js';
import { parseAutoencoderConfig } from '../../../lib/tokenizer/config.js';
import { MultiScaleQuantizer } from '../../../lib/tokenizer/quantizer.js';
import type { ScaleSchedule } from '../../../lib/tokenizer/schedule.js';
import { Activations, giveGradientDigests, giveParameterGradients, gradientOf } from '../activations.js';
import { channelsFirst, channelsLast, download, type HostArray, list, sliced, upload } from '../array.js';
import type { GoldenCase } from '../case.js';
import { type FormulaTensor, formulaWeights } from '../formula_weights.js';
import { expand } from '../glob.js';
import { goldenMap, uploadBits } from './quantizer.js';

interface AutoencoderFields {
  readonly config: {
    readonly codebook_dim: number;
    readonly scale_schedule: ScaleSchedule;
    readonly weight_seed?: number;
    readonly param_names?: readonly string[];
  };
  readonly formula_weights?: Readonly<Record<string, FormulaTensor>> | string;
  readonly seeds?: { readonly weights?: number };
  readonly replay?: { readonly bits_from: string };
}

type Weights = (c: GoldenCase) => Promise<Map<string, HostTensor>>;

const storedWeights: Weights = (c) => c.weights();

/** Weights by formula, from the list of this file or of the one it points to. */
const weightsByFormula: Weights = async (c) => {
  const { formula_weights: own, config, seeds } = c.fields<AutoencoderFields>();
  const other = typeof own === 'object' ? undefined : await c.weightsCase<AutoencoderFields>();
  const listed = typeof own === 'object' ? own : other?.formula_weights;
  const seed = config.weight_seed ?? other?.config.weight_seed ?? seeds?.weights;
  if (typeof listed !== 'object' || seed === undefined) throw new Error('the case lists no formula_weights');
  return formulaWeights(listed, seed);
};

async function build(c: GoldenCase, weights: Weights): Promise<Autoencoder> {
  const model = new Autoencoder(parseAutoencoderConfig(c.fields<AutoencoderFields>().config));
  try {
    return model.load(await weights(c));
  } catch (error) {
    model.dispose();
    throw error;
  }
}

function quantizerOf({ config }: AutoencoderFields): MultiScaleQuantizer {
  return new MultiScaleQuantizer({ codebookDim: config.codebook_dim }).load(new Map());
}

/** Bytes [B, H, W, 3] with blue first, as the official code hands them to its image writer. */
function bgrBytes({ shape, data }: HostArray): HostArray {
  const [B = 0, H = 0, W = 0] = shape;
  const bytes = fromSignedFloat(data as Float32Array, B * H, W).data;
  for (let i = 0; i < bytes.length; i += 3) [bytes[i], bytes[i + 2]] = [bytes[i + 2]!, bytes[i]!];
  return { shape, data: bytes };
}

function evaluation(weights: Weights) {
  return async (c: GoldenCase): Promise<void> => {
    const fields = c.fields<AutoencoderFields>();
    const schedule = fields.config.scale_schedule;
    using model = await build(c, weights);
    using quantizer = quantizerOf(fields);
    using image = upload(channelsLast(c.array('in.image')));
    const stages = new Activations(c, 'out.act.');
    const scales = new Activations(c, 'out.');
    using features = model.encode(image, stages.tap);
    const { quantized, bits } = quantizer.quantize(features, schedule, scales.tap);
    using decoded = model.decodeUnclamped(quantized, stages.tap);
    using recon = model.decode(quantized);
    c.give('out.features', goldenMap(await download(features)));
    c.give('out.quantized', goldenMap(await download(quantized)));
    c.give('out.decoder_out', goldenMap(await download(decoded)));
    const pixels = await download(recon);
    c.give('out.recon', goldenMap(pixels));
    c.give('out.image_u8_bgr', bgrBytes(pixels));
    await scales.give(goldenMap);
    // Of large stages only the first channels are stored.
    await stages.give((array, name) => {
      const map = goldenMap(array);
      return sliced(map, 1, 0, Math.min(map.shape[1]!, c.array(name).shape[1]!));
    });
    for (const tensor of [quantized, ...bits]) tensor.dispose();
    await replayed(c, fields, model);
  };
}

/** From the stored bits: the sum of their codes, and the picture. */
async function replayed(c: GoldenCase, { config, replay }: AutoencoderFields, model: Autoencoder): Promise<void> {
  if (!replay) return;
  const forced = config.scale_schedule.map((_, k) => uploadBits(c, expand(replay.bits_from, { k })));
  using sum = sumOfBits(forced, config.scale_schedule);
  using picture = model.decode(sum);
  c.give('out.summed_codes', goldenMap(await download(sum)));
  c.give('out.recon_from_bits', goldenMap(await download(picture)));
  for (const bits of forced) bits.dispose();
}

function gradients(weights: Weights) {
  return async (c: GoldenCase): Promise<void> => {
    const fields = c.fields<AutoencoderFields>();
    const { scale_schedule: schedule, param_names = [] } = fields.config;
    using model = await build(c, weights);
    using quantizer = quantizerOf(fields);
    const picture = channelsLast(c.array('in.image'));
    using image = upload(picture);
    // The loss takes the picture as a constant, so the tape must not know it as the encoder's input.
    using target = upload(picture);
    const tape = new Tape().watch(image, ...[...model.namedParameters()].map(([, parameter]) => parameter));
    const seen = tape.run(() => {
      const features = model.encode(image);
      const { quantized } = quantizer.quantize(features, schedule);
      const recon = model.decodeUnclamped(quantized);
      tape.watch(features, quantized, recon);
      const [l1, l2] = [l1Loss(recon, target), l2Loss(recon, target)];
      return { features, quantized, recon, l1, l2, loss: add(l1, l2) };
    });
    using one = Tensor.from([1], []);
    const found = tape.backward([{ of: seen.loss, cotangent: one }]);
    c.give('out.loss_l1', await download(seen.l1, [1]));
    c.give('out.loss_l2', await download(seen.l2, [1]));
    c.give('out.loss', await download(seen.loss, [1]));
    const { data } = await download(seen.recon);
    c.give('out.min_abs_recon_minus_image', smallestDifference(data as Float32Array, picture.data as Float32Array));
    c.give('out.grad_decoder_out', channelsFirst(await gradientOf(found, seen.recon)));
    c.give('out.grad_quantized', channelsFirst(await gradientOf(found, seen.quantized)));
    c.give('out.grad_features', channelsFirst(await gradientOf(found, seen.features)));
    c.give('out.grad_image', channelsFirst(await gradientOf(found, image)));
    await giveParameterGradients(c, 'out.grad.', model, found);
    await giveGradientDigests(c, param_names, model, found);
    found.dispose();
    for (const tensor of Object.values(seen)) tensor.dispose();
  };
}

/** How far the nearest pixel is from the kink of the absolute error. */
function smallestDifference(a: Float32Array, b: Float32Array): HostArray {
  return list([a.reduce((least, value, i) => Math.min(least, Math.abs(value - b[i]!)), Number.POSITIVE_INFINITY)]);
}

export const vaeEval = evaluation(storedWeights);
export const vaeGrad = gradients(storedWeights);
export const vaeFullEval = evaluation(weightsByFormula);
export const vaeFullGrad = gradients(weightsByFormula);
