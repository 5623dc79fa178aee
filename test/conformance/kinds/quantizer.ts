/** The bitwise quantiser on one scale and over all scales, at inference. */
import type { Tap } from '../../../lib/nn/module.js';
import { bitsToCodes } from '../../../lib/ops/bits.js';
import { bsqQuantize } from '../../../lib/ops/quantize.js';
import { scope, type Tensor } from '../../../lib/tensor.js';
import { addCodes, integerLabels, nextInput } from '../../../lib/tokenizer/bit_tokens.js';
import { MultiScaleQuantizer, smallFraction } from '../../../lib/tokenizer/quantizer.js';
import { finestGrid, type ScaleSchedule } from '../../../lib/tokenizer/schedule.js';
import { Activations } from '../activations.js';
import { channelsFirst, channelsLast, download, type HostArray, reshaped, upload } from '../array.js';
import type { GoldenCase } from '../case.js';
import { expand } from '../glob.js';
import { type QuantizerOptions, quantizerConfig } from './quantizer_config.js';
import { trainDraws } from './quantizer_draws.js';

/** Maps [B, h, w, c] as the files have them: features channel first, bits with a time axis of 1. */
export function goldenMap(map: HostArray): HostArray {
  const [B, ...rest] = map.shape;
  return map.data instanceof Uint8Array ? reshaped(map, [B!, 1, ...rest]) : channelsFirst(map);
}

/** Stored bits [B, 1, h, w, d] on the device, [B, h, w, d]. */
export function uploadBits(c: GoldenCase, name: string): Tensor {
  const bits = c.array(name);
  return upload(bits, [bits.shape[0]!, ...bits.shape.slice(2)], 'u8');
}

/** One scale, evaluation mode: x [B, d, 1, h, w]. */
export async function bsqEdge(c: GoldenCase): Promise<void> {
  using x = upload(channelsLast(c.array('in.x')));
  const { codes, bits, z } = scope(() => bsqQuantize(x));
  c.give('out.quantized', channelsFirst(await download(codes)));
  c.give('out.bits', await download(bits));
  for (const tensor of [codes, bits, z]) tensor.dispose();
}

interface EvalFields {
  readonly config: {
    readonly codebook_dim: number;
    readonly scale_schedule: ScaleSchedule;
    readonly overrides?: QuantizerOptions;
  };
  readonly replay?: { readonly bits_from: string };
}

export async function msbsqEval(c: GoldenCase): Promise<void> {
  const { config, replay } = c.fields<EvalFields>();
  const { codebook_dim: d, scale_schedule: schedule, overrides = {} } = config;
  using quantizer = new MultiScaleQuantizer(quantizerConfig(d, overrides));
  quantizer.load(c.json.weights_file ? await c.weights() : new Map());
  using x = upload(channelsLast(c.array('in.x')));
  const activations = new Activations(c, 'out.');
  const inputs: Tensor[] = [];
  const tap: Tap = (name, value) => {
    activations.tap(name, value);
    if (name.startsWith('lfq_in.')) inputs.push(value.retain());
  };
  // Scales are dropped in training alone, but codes are flipped in evaluation too.
  const draws = c.has('in.random_draws') ? c.numbers('in.random_draws') : [];
  const { train, owned } = trainDraws(c, { ...overrides, use_stochastic_depth: false }, schedule.length, draws);
  const { quantized, bits, loss, losses } = train.flips
    ? quantizer.train(x, schedule, { ...train, tap })
    : { ...quantizer.quantize(x, schedule, tap), loss: undefined, losses: [] };
  c.give('out.quantized', goldenMap(await download(quantized)));
  await activations.give(goldenMap);
  const fractions: number[] = [];
  for (const input of inputs) fractions.push(smallFraction((await download(input)).data as Float32Array, d));
  c.give('out.residual_small_fraction', fractions);
  for (const [k, scaleBits] of bits.entries()) {
    const { shape, data } = goldenMap(await download(scaleBits));
    c.give(`out.index.${k}`, { shape: shape.slice(0, -1), data: integerLabels(data as Uint8Array, d) });
    const wanted = `out.codes_from_bits.${k}`;
    if (!replay || !c.wants(wanted)) continue;
    using forced = uploadBits(c, expand(replay.bits_from, { k }));
    using codes = bitsToCodes(forced);
    c.give(wanted, goldenMap(await download(codes)));
  }
  for (const tensor of [quantized, ...bits, ...inputs, ...owned, ...losses]) tensor.dispose();
  loss?.dispose();
}

/** Codes of given bits, their running sum, and what the transformer sees of it at the next scale. */
export async function bitsToCodesOverScales(c: GoldenCase): Promise<void> {
  const { scale_schedule: schedule } = c.fields<EvalFields>().config;
  const finest = finestGrid(schedule);
  let sum: Tensor | null = null;
  for (const k of schedule.keys()) {
    using bits = uploadBits(c, `in.bits.${k}`);
    using codes = bitsToCodes(bits);
    c.give(`out.codes.${k}`, goldenMap(await download(codes)));
    const before: Tensor | null = sum;
    sum = addCodes(before, codes, finest);
    before?.dispose();
    c.give(`out.summed.${k}`, goldenMap(await download(sum)));
    const next = schedule[k + 1];
    if (!next) continue;
    const input = nextInput(sum, [next[1], next[2]]);
    c.give(`out.next_input.${k}`, goldenMap(await download(input)));
    // On its own grid the sum is what it is resized to.
    if (input !== sum) input.dispose();
  }
  sum?.dispose();
}
