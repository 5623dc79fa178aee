/** The transformer under teacher forcing: activations, logits, losses and gradients. */
import { packBits } from '../../../lib/ops/bits.js';
import { Tape } from '../../../lib/tape.js';
import { scope, Tensor } from '../../../lib/tensor.js';
import { tokenWeights } from '../../../lib/transformer/head.js';
import type { ForwardOptions, InfinityTransformer } from '../../../lib/transformer/infinity.js';
import { Activations, giveParameterGradients, gradientOf } from '../activations.js';
import { download, upload } from '../array.js';
import type { GoldenCase } from '../case.js';
import { finestOf, loadTransformer, type TransformerFields, textFeatures } from './transformer_config.js';

interface ForwardFields extends TransformerFields {
  readonly cond_drop?: { readonly rate: number; readonly uniform_draws: readonly number[] } | null;
  readonly drop_path?: readonly { readonly block: number; readonly part: 'sa' | 'ffn' }[] | null;
}

const LOSSES = [
  ['loss_reweighted', { reweight: true, reduction: 'mean' }],
  ['loss_plain', { reweight: false, reduction: 'mean' }],
  ['loss_reweighted_bitsum', { reweight: true, reduction: 'sum' }],
  ['loss_plain_bitsum', { reweight: false, reduction: 'sum' }],
] as const;

/** Recorded keep flags by block; blocks that are not listed keep everything. */
function dropPathFlags(
  c: GoldenCase,
  { drop_path }: ForwardFields,
  depth: number,
  B: number,
): ForwardOptions['dropPath'] {
  if (!drop_path) return undefined;
  const flags = (block: number, part: 'sa' | 'ffn') => {
    const name = c.drawsOf('drop_path', 'drop_path_keep.block{n}.{part}', { n: block, part });
    return c.has(name) ? c.numbers(name) : new Array<number>(B).fill(1);
  };
  return Array.from({ length: depth }, (_, block) => ({ sa: flags(block, 'sa'), ffn: flags(block, 'ffn') }));
}

export async function transformerForward(c: GoldenCase): Promise<void> {
  const fields = c.fields<ForwardFields>();
  using model = await loadTransformer(c);
  const text = textFeatures(c);
  using kv = text.kv_NCt;
  const { cond_drop, scale_schedule: schedule } = fields;
  const options: ForwardOptions = {
    text,
    schedule,
    finest: finestOf(fields),
    dropText: cond_drop ? cond_drop.uniform_draws.map((draw) => draw < cond_drop.rate) : undefined,
    dropPath: dropPathFlags(c, fields, model.config.depth, text.lens.length),
  };
  // A schedule of one scale has no inputs.
  using x = c.has('x_BLC_wo_prefix') ? upload(c.array('x_BLC_wo_prefix')) : null;
  using bits = upload(c.array('gt_bits'), undefined, 'u8');
  using labels = packBits(bits);
  await outputs(c, model, x, labels, options);
  if (c.names('grad*').some((name) => c.wants(name))) await gradients(c, model, x, labels, options);
  kv.dispose();
}

async function outputs(
  c: GoldenCase,
  model: InfinityTransformer,
  x: Tensor | null,
  labels: Tensor,
  options: ForwardOptions,
): Promise<void> {
  const activations = new Activations(c, 'act.');
  const { schedule } = options;
  const results = scope(() => {
    const hidden = model.hidden(x, { ...options, tap: activations.tap });
    const losses = LOSSES.map(([name, how]) => [name, model.head.loss(hidden, labels, { schedule, ...how })] as const);
    return { logits: model.head.classify(hidden), losses };
  });
  const [B = 1, L = 1] = labels.shape;
  c.give('logits', await download(results.logits));
  c.give('loss_per_token', await download(results.losses[0]![1].perToken, [B, L]));
  for (const [name, { loss }] of results.losses) c.give(name, await download(loss, [1]));
  c.give('loss_weight', { shape: [L], data: tokenWeights(schedule, true) });
  await activations.give();
  results.logits.dispose();
  for (const [, parts] of results.losses) for (const tensor of Object.values(parts)) tensor.dispose();
}

async function gradients(
  c: GoldenCase,
  model: InfinityTransformer,
  x: Tensor | null,
  labels: Tensor,
  options: ForwardOptions,
): Promise<void> {
  const tape = new Tape().watch(...(x ? [x] : []), ...[...model.namedParameters()].map(([, parameter]) => parameter));
  const parts = tape.run(() => model.loss(x, labels, { ...options, reweight: true }));
  using one = Tensor.from([1], []);
  const found = tape.backward([{ of: parts.loss, cotangent: one }]);
  if (x) c.give('grad_input.x_BLC_wo_prefix', await gradientOf(found, x));
  await giveParameterGradients(c, 'grad.', model, found);
  found.dispose();
  for (const tensor of Object.values(parts)) tensor.dispose();
}
