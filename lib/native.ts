/** The native addon: loaded once, described here, and used by lib/device.ts alone. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { InfinityError, type InfinityErrorCode } from './errors.js';
import { OPS_DIGEST } from './ops_digest.js';

/** Counters of one device; memory in bytes. */
export interface NativeStats {
  readonly liveTensors: number;
  readonly liveBytes: number;
  readonly cachedBytes: number;
  readonly peakBytes: number;
  readonly limitBytes: number;
  readonly commands: number;
  /** Kernels that a card was given to run, as far as the queue has come; 0 on the processor. */
  readonly launches: number;
  readonly threads: number;
  /** What computes: an instruction set, or the name of a card. */
  readonly backend: string;
  /** Tensors whose guard zones were overwritten; present under NODE_INFINITY_DEBUG=guard only. */
  readonly damagedGuards?: number;
}

/** What this machine and this build offer. */
export interface NativeCapabilities {
  /** Instruction sets that were compiled and that this machine can run. */
  readonly isas: readonly string[];
  /** Bytes that the container or the machine allows. */
  readonly memory: number;
  readonly processors: number;
  readonly ops: number;
  /** Of the table of ops that the addon was built from; see lib/ops_digest.ts. */
  readonly opsDigest: number;
}

/** What `NativeAddon.token` does. */
export const TokenAction = { create: 0, cancel: 1, release: 2 } as const;

/** What `NativeAddon.program` does. */
export const ProgramAction = { create: 0, enter: 1, leave: 2, run: 3, release: 4, bytes: 5 } as const;

/** What a device is opened with; `library` is the path of the CUDA backend. */
export interface NativeDeviceOptions {
  readonly kind: 'cpu' | 'cuda';
  readonly threads?: number | undefined;
  readonly isa?: string | undefined;
  readonly library?: string | undefined;
  readonly card?: number | undefined;
  readonly deterministic?: boolean | undefined;
  readonly products?: string | undefined;
  readonly memoryLimit?: number | undefined;
  readonly dry?: boolean | undefined;
}

/** The functions of native/addon.cc. Devices, tokens, programs and tensors are numbers. */
export interface NativeAddon {
  open(words: Uint32Array, options: NativeDeviceOptions): number;
  close(device: number): void;
  submit(device: number): void;
  alloc(device: number, bytes: number): number;
  free(device: number, handle: number): void;
  upload(device: number, token: number, handle: number, offset: number, bytes: Uint8Array): void;
  read(device: number, token: number, handle: number, offset: number, into: Uint8Array): Promise<void>;
  sync(device: number, token: number): Promise<void>;
  token(device: number, action: number, id: number): number;
  program(device: number, action: number, id: number, token: number): number;
  trim(device: number): void;
  stats(device: number, resetPeak: boolean): NativeStats;
  decisions(device: number): string;
  capabilities(): NativeCapabilities;
}

/** The package's root, from lib/ in a checkout and from dist/ in an installed package. */
export function packageRoot(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'package.json'))) directory = dirname(directory);
  return directory;
}

interface AddonLoader {
  (root: string): NativeAddon;
  resolve(root: string): string;
}

const loader = (): AddonLoader => createRequire(import.meta.url)('node-gyp-build') as AddonLoader;

const BUILD_IT =
  'In a checkout run "npm run build:native"; as a dependency run "npm rebuild node-infinity" with a C++ compiler and CMake installed.';

/**
 * Refuses an addon of another table of ops: it would take the numbers of this code for other ops.
 * @throws InfinityError NATIVE_BINARY_MISSING with the cure.
 */
export function requireSameOps(addon: Pick<NativeAddon, 'capabilities'>, path: string): void {
  if (addon.capabilities().opsDigest === OPS_DIGEST) return;
  throw new InfinityError(
    'NATIVE_BINARY_MISSING',
    `Expected a native addon of this version but ${path} was built from another table of ops.`,
    { cure: BUILD_IT, value: path },
  );
}

let loaded: NativeAddon | undefined;

/**
 * The addon of this platform: a prebuilt one, or the one built in the checkout.
 * @throws InfinityError NATIVE_BINARY_MISSING with the cure.
 */
export function native(): NativeAddon {
  if (loaded) return loaded;
  let addon: NativeAddon;
  let path: string;
  try {
    const load = loader();
    path = load.resolve(packageRoot());
    addon = load(packageRoot());
  } catch (cause) {
    throw new InfinityError(
      'NATIVE_BINARY_MISSING',
      `Expected a native addon for ${process.platform}-${process.arch} (Node ${process.versions.node}) but none could be loaded.`,
      { cure: BUILD_IT, value: `${process.platform}-${process.arch}`, cause },
    );
  }
  requireSameOps(addon, path);
  loaded = addon;
  return loaded;
}

/**
 * The CUDA backend: NODE_INFINITY_CUDA_LIBRARY, else the library beside the addon.
 * @throws InfinityError DEVICE_UNAVAILABLE where there is none
 */
export function cudaLibrary(): string {
  const given = process.env.NODE_INFINITY_CUDA_LIBRARY;
  const path = given || join(dirname(loader().resolve(packageRoot())), 'node_infinity_cuda.so');
  if (existsSync(path)) return path;
  throw new InfinityError('DEVICE_UNAVAILABLE', `Expected the CUDA backend at ${path} but there is none.`, {
    value: path,
    cure: given
      ? 'Correct NODE_INFINITY_CUDA_LIBRARY.'
      : "Build it on a machine with the CUDA toolkit (NODE_INFINITY_CUDA=ON npm run build:native), or use device: 'cpu'.",
  });
}

/** What to do about errors of the addon, by their code. */
const CURES: Readonly<Record<string, string>> = {
  OUT_OF_MEMORY:
    'Dispose tensors or pipelines that are no longer used, lower the batch or the size, or raise NODE_INFINITY_MEMORY_LIMIT.',
  DEVICE_UNAVAILABLE: 'Run "npx node-infinity doctor" to see what this machine can run, or use device: \'cpu\'.',
};

/** Errors of the addon carry a `code`; everything else is a defect of ours and keeps its own shape. */
export function toInfinityError(error: unknown): unknown {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') return error;
  const extras = error as Error & { needed?: number; free?: number };
  const fields = extras.needed === undefined ? {} : { needed: extras.needed, free: extras.free };
  return new InfinityError(error.code as InfinityErrorCode, error.message, {
    fields,
    cure: CURES[error.code],
    cause: error,
  });
}
