/** The kernels that matter, each at the shapes of a 2B model. */

import type { Device } from '../../lib/device.js';
import { adaNorm, groupNorm } from '../../lib/ops/norm.js';
import { Gradients } from '../../lib/tape.js';
import { AdamW } from '../../lib/training/optimizer.js';
import { type CardOptions, milliseconds, type Row, timeInTurns } from '../harness.js';
import { appends, attentions } from './attention_jobs.js';
import { bitLosses, bitSampling, quantisation } from './bit_jobs.js';
import { type CaseOf, type Cases, casesOf, type KernelCase } from './cases.js';
import {
  againstFloor,
  type Ceilings,
  HALF,
  type Job,
  launchesAndPeak,
  measureJob,
  openCard,
  randomOn,
} from './measure.js';
import { convolution, productGradients, products, productsAroundNorm, upsampling } from './product_jobs.js';

function modulatedNorm({ batch, tokens, width }: CaseOf<'ada_norm'>): Job {
  return {
    bytes: HALF * 2 * batch * tokens * width,
    prepare: (device) => {
      const x = randomOn(device, [batch, tokens, width]);
      const [scale, shift] = [randomOn(device, [batch, 1, width]), randomOn(device, [batch, 1, width])];
      return { operands: [x, scale, shift], call: () => adaNorm(x, scale, shift, 1e-6) };
    },
  };
}

function groupNorms({ size, channels }: CaseOf<'group_norm'>): Job {
  return {
    // Statistics are of the whole picture: it is read twice.
    bytes: HALF * 3 * size * size * channels,
    prepare: (device) => {
      const x = randomOn(device, [1, size, size, channels]);
      const [w, b] = [randomOn(device, [channels], 'f32'), randomOn(device, [channels], 'f32')];
      return { operands: [x, w, b], call: () => groupNorm(x, w, b, 32, 1e-6, { silu: true }) };
    },
  };
}

function jobOf(c: KernelCase): Job {
  switch (c.kind) {
    case 'linear':
      return products(c);
    case 'products_around_norm':
      return productsAroundNorm(c);
    case 'linear_backward':
      return productGradients(c);
    case 'attention':
      return attentions(c, false);
    case 'attention_backward':
      return attentions(c, true);
    case 'append':
      return appends(c);
    case 'ada_norm':
      return modulatedNorm(c);
    case 'bit_sample':
      return bitSampling(c);
    case 'bit_loss':
      return bitLosses(c);
    case 'quantise':
      return quantisation(c);
    case 'conv':
      return convolution(c);
    case 'upsample':
      return upsampling(c);
    case 'group_norm':
      return groupNorms(c);
  }
}

/** An update of many parameters, the norm of their gradients and the clip included. */
async function adamw(
  device: Device,
  { adamw: { tensors, elements }, rounds }: Cases,
  ceilings: Ceilings,
): Promise<Row> {
  const made = Array.from({ length: 2 * tensors }, () => randomOn(device, [elements], 'f32'));
  const parameters = made.slice(0, tensors);
  const grads = new Gradients(new Map(parameters.map((p, i) => [p.id, made[tensors + i]!])));
  const optimizer = await AdamW.create(
    parameters.map((p, i) => [`weight.${i}`, p]),
    { betas: [0.9, 0.97], clip: 1 },
  );
  const call = () => optimizer.update(grads, { lr: 1e-4, weightDecay: 0.01 }).dispose();
  call();
  const row = await launchesAndPeak(device, call);
  const [time] = await timeInTurns([{ device, call }], rounds);
  optimizer.dispose();
  for (const t of made) t.dispose();
  await device.sync();
  device.trim();
  // The gradient is read for its norm, then everything is read and all but the gradient written.
  const bytes = 8 * 4 * tensors * elements;
  const name = `AdamW, clip and norm, ${tensors} x ${elements} parameters`;
  return { name, ...milliseconds(time!, 4), sets: 1, ...row, ...againstFloor({ bytes }, time!, ceilings) };
}

/** One row a kernel; copy and product, against which the others are held, come first. */
export async function* kernels({ filter = '', rounds, short = false }: CardOptions): AsyncGenerator<Row> {
  const cases = casesOf(short);
  const { device, ceilings, rows } = await openCard(cases);
  yield* rows;
  for (const c of cases.kernels) {
    if (!c.name.includes(filter)) continue;
    const job = jobOf(c);
    const measured = { name: c.name, ...job, setBytes: job.bytes };
    const { time, row } = await measureJob(device, measured, rounds ?? cases.rounds);
    yield { name: c.name, ...row, ...againstFloor(job, time, ceilings) };
  }
  if ('AdamW'.includes(filter)) yield adamw(device, cases, ceilings);
  device.close();
}
