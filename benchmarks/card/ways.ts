/**
 * Every matrix product and attention of the list, once by each way that this card and machine have for it: what the rule between them is made from.
 * Then by the way that a device decides for which need not be deterministic, with its decisions.
 */
import { Device, type ProductRoute } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import type { CardOptions, Row } from '../harness.js';
import { attentions } from './attention_jobs.js';
import { type CaseOf, casesOf, FASTEST, type KernelCase } from './cases.js';
import { againstFloor, type Job, measureJob, openCard } from './measure.js';
import { productGradients, products } from './product_jobs.js';

const ROUTES: readonly ProductRoute[] = ['fragments', 'warpgroups', 'cublaslt'];

type RoutedCase = CaseOf<'linear'> | CaseOf<'linear_backward'> | CaseOf<'attention'>;

export const isRouted = (c: KernelCase): c is RoutedCase =>
  c.kind === 'linear' || c.kind === 'linear_backward' || c.kind === 'attention';

function jobOf(c: RoutedCase): Job {
  if (c.kind === 'attention') return attentions(c, false);
  return c.kind === 'linear' ? products(c) : productGradients(c);
}

/** A card whose products and attentions go one way, or undefined where that is not to be had; without a way, one that decides. */
function cardOf(products?: ProductRoute): Device | undefined {
  try {
    return Device.create('cuda', products ? { products } : { deterministic: false });
  } catch (error) {
    if (error instanceof InfinityError && error.code === 'DEVICE_UNAVAILABLE') return undefined;
    throw error;
  }
}

/** What a way does not take is left out. */
export async function* ways({ filter = '', rounds, short = false }: CardOptions): AsyncGenerator<Row> {
  const cases = casesOf(short);
  const { device: first, ceilings, rows } = await openCard(cases);
  first.close();
  yield* rows;
  for (const way of [...ROUTES, undefined]) {
    const device = cardOf(way);
    if (!device) continue;
    for (const c of cases.kernels) {
      const name = `${c.name}${way ? `, by ${way}` : FASTEST}`;
      if (!isRouted(c) || !name.includes(filter)) continue;
      if (way === 'cublaslt' && c.kind === 'attention') continue; // it has none
      const job = jobOf(c);
      const before = device.decisions().length;
      const { time, row } = await measureJob(device, { name, ...job, setBytes: job.bytes }, rounds ?? cases.rounds);
      const taken = device.decisions().slice(before);
      if (way && taken.some((line) => !line.includes(`: ${way} (`))) continue;
      const told = { name, ...row, ...againstFloor(job, time, ceilings) };
      // "cublaslt (fragments 0.4120 ms, cublaslt 0.3010 ms)"
      const decided = taken.map((line) => line.slice(line.lastIndexOf(': ') + 2)).join('; ');
      yield way ? told : { ...told, decided };
    }
    device.close();
  }
}
