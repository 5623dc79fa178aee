/** The ways of matrix products beside each other: each that the card has, and what a device decides that takes the fastest. */
import { Device, type ProductRoute } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import { scope } from '../../lib/tensor.js';
import { milliseconds, type Row } from '../harness.js';
import { type CardJob, measureJob } from './measure.js';

/** Beside `fragments`, which a deterministic device takes. */
const OTHERS: readonly ProductRoute[] = ['warpgroups', 'cublaslt'];

export class ProductWays {
  private readonly devices = new Map<ProductRoute, Device>();
  private readonly fastest = Device.create('cuda', { deterministic: false });

  constructor() {
    for (const products of OTHERS) {
      try {
        this.devices.set(products, Device.create('cuda', { products }));
      } catch (error) {
        if (!(error instanceof InfinityError && error.code === 'DEVICE_UNAVAILABLE')) throw error;
      }
    }
  }

  /** Median times by the other ways that the card has, and the decisions that are made from times. */
  async measure(job: CardJob, rounds: number): Promise<Row> {
    const row: Record<string, string | number> = {};
    for (const [route, device] of this.devices)
      row[`${route}_ms`] = milliseconds((await measureJob(device, job, rounds)).time, 4).median_ms!;
    return { ...row, fastest: (await this.decide(job)).join('; ') };
  }

  /** "cublaslt (fragments 0.4120 ms, cublaslt 0.3010 ms)" for each product of the job. */
  private async decide(job: CardJob): Promise<string[]> {
    const device = this.fastest;
    const before = new Set(device.decisions());
    const { operands } = scope(() => {
      const prepared = job.prepare(device);
      prepared.call();
      return prepared;
    });
    for (const t of operands) t.dispose();
    await device.sync();
    device.trim();
    const lines = device.decisions().filter((line) => !before.has(line));
    return lines.map((line) => line.slice(line.lastIndexOf(': ') + 2));
  }

  close(): void {
    for (const device of [this.fastest, ...this.devices.values()]) device.close();
  }
}
