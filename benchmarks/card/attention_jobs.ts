/** Attention on a card and the preparation of its operands, in bf16. */
import type { Device } from '../../lib/device.js';
import { attention, qkvAppend, qkvPrep } from '../../lib/ops/attention.js';
import { Op } from '../../lib/ops/generated.js';
import { run, shaped } from '../../lib/ops/run.js';
import { Tensor } from '../../lib/tensor.js';
import { scaleOffsets, scaleTokens } from '../../lib/tokenizer/schedule.js';
import { type AttentionCase, type CaseOf, squareSchedule } from './cases.js';
import { HALF, type Job, randomOn } from './measure.js';

/** Rows of k that each query sees, and how many pairs of query and key there are in all. */
function visible({ batch, queries, keys, form, scales = 1 }: AttentionCase): {
  ranges: number[];
  shape: number[];
  pairs: number;
} {
  if (form === 'text') {
    const each = keys / batch;
    const ranges = Array.from({ length: batch }, (_, b) => [b * each, (b + 1) * each]).flat();
    return { ranges, shape: [batch, 1, 2], pairs: queries * keys };
  }
  if (form !== 'causal') return { ranges: [0, keys], shape: [1, 1, 2], pairs: batch * queries * keys };
  const schedule = squareSchedule(scales);
  const offsets = scaleOffsets(schedule);
  const ends = schedule.flatMap((scale, k) => new Array<number>(scaleTokens(scale)).fill(offsets[k + 1]!));
  return {
    ranges: ends.flatMap((end) => [0, end]),
    shape: [1, queries, 2],
    pairs: batch * ends.reduce((a, b) => a + b, 0),
  };
}

/** Logarithm of how long queries of self attention are; gains are trained, from 4 on. */
const LOG_GAIN = Math.log(10);

/** q, k and v: of self attention prepared as the network does, keys of length 1; into a text they are plain projections. */
function operandsOf(device: Device, { batch, queries, keys, heads, width, form }: AttentionCase): Tensor[] {
  const C = heads * width;
  if (form === 'text')
    return [
      [batch, queries, C],
      [1, keys, C],
      [1, keys, C],
    ].map((shape) => randomOn(device, shape, 'bf16', width ** -0.25));
  const gain = Tensor.from(new Float32Array(heads).fill(LOG_GAIN), [heads], 'f32', device);
  const prepared = (tokens: number) =>
    qkvPrep(randomOn(device, [batch, tokens, 3 * C]), { heads, gain, rope: null, ropeStart: 0, cosine: true });
  const [q] = prepared(queries);
  const [, k, v] = prepared(keys);
  return [q, k, v];
}

export function attentions(c: AttentionCase, backward: boolean): Job {
  const { batch, queries, keys, heads, width, form } = c;
  const { ranges, shape, pairs } = visible(c);
  const C = heads * width;
  const own = form === 'text' ? 1 : batch;
  // Two products forward; five backward, which makes the scores again.
  const flops = (backward ? 10 : 4) * pairs * C;
  const elements = 2 * batch * queries * C + 2 * own * keys * C;
  return {
    flops,
    bytes: HALF * elements * (backward ? 2 : 1),
    prepare: (device) => {
      const [q, k, v] = operandsOf(device, c);
      const range = Tensor.from(Int32Array.from(ranges), shape, 'i32', device);
      const options = { heads, scale: 1, range, unitKeys: form !== 'text' };
      const operands = [q!, k!, v!, range];
      if (!backward) return { operands, call: () => attention(q!, k!, v!, options) };
      const outputs = [shaped(q!, q!.shape), { dtype: 'f32', shape: [batch, heads, queries] }] as const;
      const params = [heads, 1, own === batch ? keys : 0, 0];
      const [o, lse] = run(Op.attention, [q!, k!, v!, range, null], outputs, params);
      const go = randomOn(device, q!.shape);
      const gradients = [q!, k!, v!].map((t) => shaped(t, t.shape));
      const call = () => run(Op.attentionBackward, [go, q!, k!, v!, o!, lse!, range], gradients, params);
      return { operands: [...operands, o!, lse!, go], call };
    },
  };
}

/** Into the rows of a cache; what is read is what is written. */
export function appends({ batch, tokens, heads, width }: CaseOf<'append'>): Job {
  const C = heads * width;
  return {
    bytes: HALF * 2 * batch * tokens * 3 * C,
    prepare: (device) => {
      const qkv = randomOn(device, [batch, tokens, 3 * C]);
      const [gain, rope] = [randomOn(device, [heads], 'f32'), randomOn(device, [tokens, width / 2, 2], 'f32')];
      const [k_1NC, v_1NC] = [0, 1].map(() => randomOn(device, [1, batch * tokens, C])) as [Tensor, Tensor];
      const into = { k_1NC, v_1NC, start: 0, sampleStride: tokens };
      const options = { heads, gain, rope, ropeStart: 0, cosine: true };
      return { operands: [qkv, gain, rope, k_1NC, v_1NC], call: () => qkvAppend(qkv, into, options) };
    },
  };
}
