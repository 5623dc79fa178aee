/**
 * Which networks are in memory: all of them from the beginning, or, with `offload`, one at a time, read from its files again
 * when it is needed and another one was in its place.
 */
import type { Device } from '../device.js';
import type { Module } from '../nn/module.js';
import type { NetworkName } from '../weights/find_states.js';

/** The right to use a network until it is released. */
export interface Lease {
  release(): void;
}

/** Gives networks to those who need them. A network must not be touched without a lease. */
export interface Residency {
  /**
   * Resolves when the network is in memory. Leases of one network are held together; another network waits for all of them.
   *
   * @throws whatever reading weights throws; the reason of `signal`
   */
  acquire(name: NetworkName, signal?: AbortSignal): Promise<Lease>;
  /** Nobody waits any longer, reading stops. Resolves when nothing is on the way. */
  close(): Promise<void>;
}

/** Runs `fn` while the network is in memory. */
export async function withNetwork<T>(
  residency: Residency,
  name: NetworkName,
  signal: AbortSignal | undefined,
  fn: () => T | Promise<T>,
): Promise<T> {
  const lease = await residency.acquire(name, signal);
  try {
    return await fn();
  } finally {
    lease.release();
  }
}

const HELD: Lease = { release: () => undefined };

/** All networks stay in memory. */
export const allResident: Residency = {
  acquire: async () => HELD,
  close: async () => undefined,
};

/** How a network comes to its weights. */
export interface Offloaded {
  readonly module: Module;
  load(signal: AbortSignal): Promise<void>;
}

interface Waiting {
  readonly name: NetworkName;
  readonly admit: (lease: Lease) => void;
  readonly refuse: (reason: unknown) => void;
}

/** One network at a time, in the order in which they are asked for. */
export class OneAtATime implements Residency {
  private users = 0;
  private readonly queue: Waiting[] = [];
  private readonly closing = new AbortController();
  private exchange: Promise<void> | undefined;

  /** @param present which network is in memory now */
  constructor(
    private readonly device: Device,
    private readonly networks: Readonly<Partial<Record<NetworkName, Offloaded>>>,
    private present: NetworkName | undefined,
  ) {}

  acquire(name: NetworkName, signal?: AbortSignal): Promise<Lease> {
    return new Promise((resolve, reject) => {
      const stop = new AbortController();
      const refuse = (reason: unknown) => {
        stop.abort();
        const at = this.queue.indexOf(waiting);
        if (at >= 0) this.queue.splice(at, 1);
        reject(reason);
        this.serve();
      };
      const admit = (lease: Lease) => {
        stop.abort();
        resolve(lease);
      };
      const waiting: Waiting = { name, admit, refuse };
      const listened = { once: true, signal: stop.signal };
      for (const s of [signal, this.closing.signal]) {
        if (s?.aborted) return reject(s.reason);
        s?.addEventListener('abort', () => refuse(s.reason), listened);
      }
      this.queue.push(waiting);
      this.serve();
    });
  }

  /** Admits those in front who ask for what is there; with nobody left who uses it, brings what the next one asks for. */
  private serve(): void {
    if (this.exchange) return;
    while (this.queue[0] && this.queue[0].name === this.present) this.queue.shift()!.admit(this.lease());
    const [next] = this.queue;
    if (!next || this.users > 0) return;
    this.exchange = this.bring(next.name)
      .catch((reason) => next.refuse(reason))
      .finally(() => {
        this.exchange = undefined;
        this.serve();
      });
  }

  private lease(): Lease {
    this.users++;
    let held = true;
    return {
      release: () => {
        if (!held) return;
        held = false;
        this.users--;
        this.serve();
      },
    };
  }

  private async bring(name: NetworkName): Promise<void> {
    const { device, networks } = this;
    if (this.present) networks[this.present]!.module.unload();
    this.present = undefined;
    // What the queue still reads must not go back to the system. A failure belongs to whoever submitted the work.
    await device.sync().catch(() => undefined);
    device.trim();
    const { module, load } = networks[name]!;
    try {
      await load(this.closing.signal);
      this.present = name;
    } catch (error) {
      module.unload();
      throw error;
    }
  }

  async close(): Promise<void> {
    this.closing.abort(new Error('closed'));
    await this.exchange;
  }
}
