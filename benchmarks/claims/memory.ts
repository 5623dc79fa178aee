/** What some work takes of a device's memory, from its own allocator. */
import { Device } from '../../lib/device.js';

export interface MemoryUse {
  /** Most bytes that lived at once beyond those that lived before. */
  readonly peakBytes: number;
  readonly seconds: number;
}

/** Runs `work` on what `prepare` made; the two see the same device, which is closed afterwards. */
export async function memoryOf<T>(
  options: { readonly threads: number; readonly dry?: boolean },
  prepare: (device: Device) => T | Promise<T>,
  work: (prepared: T, device: Device) => unknown,
): Promise<MemoryUse> {
  const device = Device.create('cpu', options);
  try {
    const prepared = await prepare(device);
    await device.sync();
    const { liveBytes } = device.resetPeak();
    const begin = performance.now();
    await work(prepared, device);
    await device.sync();
    return { peakBytes: device.stats().peakBytes - liveBytes, seconds: (performance.now() - begin) / 1e3 };
  } finally {
    device.close();
  }
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB', 'ZiB', 'YiB'] as const;

export function bytes(count: number): string {
  const power = Math.min(UNITS.length - 1, Math.max(0, Math.floor(Math.log2(count) / 10)));
  return `${Number((count / 1024 ** power).toPrecision(3))} ${UNITS[power]}`;
}
