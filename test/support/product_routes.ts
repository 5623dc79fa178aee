/** Devices on a card whose matrix products go one way. */
import { dirname, join } from 'node:path';
import { Device, type DeviceOptions, type ProductRoute } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import { CUDA } from './numeric.js';

export const EMULATED = CUDA.includes('emulated');
export const ROUTES: readonly ProductRoute[] = ['fragments', 'warpgroups', 'cublaslt'];

/** What stands beside the emulated card in place of NVIDIA's library. */
export const fakeCublasLt = (): string =>
  join(dirname(process.env.NODE_INFINITY_CUDA_LIBRARY ?? ''), 'fake_cublaslt.so');

/** Calls `fn` with these variables set in the environment, or unset where they are undefined. */
export function withEnv<T>(variables: Readonly<Record<string, string | undefined>>, fn: () => T): T {
  const set = (values: Readonly<Record<string, string | undefined>>): void => {
    for (const [name, value] of Object.entries(values)) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  };
  const before = Object.fromEntries(Object.keys(variables).map((name) => [name, process.env[name]]));
  set(variables);
  try {
    return fn();
  } finally {
    set(before);
  }
}

/** A guarded device on the card; the emulated one finds the library of `fakeCublasLt`, or of `variables`. */
export function openOnCard(
  options: DeviceOptions,
  variables: Readonly<Record<string, string | undefined>> = {},
): Device {
  const library = EMULATED ? { NODE_INFINITY_CUBLASLT: fakeCublasLt() } : {};
  return withEnv({ NODE_INFINITY_DEBUG: 'guard', ...library, ...variables }, () =>
    Device.create('cuda', { memoryLimit: 2 ** 28, ...options }),
  );
}

/** Why products cannot go this way here, or the device on which they all do where it can serve them. */
export function onRoute(products: ProductRoute): Device | string {
  if (!process.env.NODE_INFINITY_CUDA_LIBRARY) return 'NODE_INFINITY_CUDA_LIBRARY names no backend';
  try {
    return openOnCard({ products }, products === 'warpgroups' ? { SIMT_ARCHITECTURE: '90' } : {});
  } catch (error) {
    if (error instanceof InfinityError && error.code === 'DEVICE_UNAVAILABLE') return error.message;
    throw error;
  }
}
