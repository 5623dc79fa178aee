/** Every matrix product of the list, once by each way that this card and machine have for it: what the rule between them is made from. */
import { Device, type ProductRoute } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import type { CardOptions, Row } from '../harness.js';
import { type CaseOf, casesOf, type KernelCase } from './cases.js';
import { againstFloor, measureJob, openCard } from './measure.js';
import { productGradients, products } from './product_jobs.js';

const WAYS: readonly ProductRoute[] = ['fragments', 'warpgroups', 'cublaslt'];

type ProductCase = CaseOf<'linear'> | CaseOf<'linear_backward'>;

export const isProduct = (c: KernelCase): c is ProductCase => c.kind === 'linear' || c.kind === 'linear_backward';

/** A card whose products go one way, or undefined where that is not to be had. */
function cardOf(products: ProductRoute): Device | undefined {
  try {
    return Device.create('cuda', { products });
  } catch (error) {
    if (error instanceof InfinityError && error.code === 'DEVICE_UNAVAILABLE') return undefined;
    throw error;
  }
}

/** Products that a way does not take are left out. */
export async function* ways({ filter = '', rounds, short = false }: CardOptions): AsyncGenerator<Row> {
  const cases = casesOf(short);
  const { device: first, ceilings, rows } = await openCard(cases);
  first.close();
  yield* rows;
  for (const way of WAYS) {
    const device = cardOf(way);
    if (!device) continue;
    for (const c of cases.kernels) {
      const name = `${c.name}, by ${way}`;
      if (!isProduct(c) || !name.includes(filter)) continue;
      const job = c.kind === 'linear' ? products(c) : productGradients(c);
      const before = device.decisions().length;
      const { time, row } = await measureJob(device, { name, ...job, setBytes: job.bytes }, rounds ?? cases.rounds);
      const taken = device.decisions().slice(before);
      if (taken.every((line) => line.includes(`: ${way} (`)))
        yield { name, ...row, ...againstFloor(job, time, ceilings) };
    }
    device.close();
  }
}
