/** What a frozen network computes, item by item: out of the cache where it is there, computed and kept where it is not. */
import type { FeatureStore } from '../data/feature_store.js';
import type { Device } from '../device.js';
import type { BlobCache, Lookup } from '../io/blob_cache.js';
import { cat, slice } from '../ops/shape.js';
import { type Shape, scope, sizeOf, Tensor } from '../tensor.js';
import type { CacheCounts } from './trainee.js';

/**
 * Where features lie in a cache.
 * @param what decides them beside the item and the arithmetic
 */
export function featureStore(cache: BlobCache, device: Device, what: readonly unknown[]): FeatureStore {
  // Another instruction set rounds otherwise, and a run must not depend on whether it has a cache.
  const { backend } = device.stats();
  return { directory: cache.directory, scope: JSON.stringify([...what, backend]) };
}

/** Rows of several items, packed. */
export interface PackedRows {
  /** f32 [sum of lens, ...]. */
  readonly rows: Tensor;
  /** How many each item has. */
  readonly lens: readonly number[];
}

/** Features of one kind. */
export class CachedFeatures {
  readonly counts: CacheCounts = { read: 0, computed: 0, damaged: 0 };
  private writing: Promise<void> = Promise.resolve();

  constructor(
    private readonly cache: BlobCache,
    private readonly device: Device,
  ) {}

  /**
   * The same bits as without a cache where the network computes an item alike in every batch.
   * @param entries of the items, in their order
   * @param row shape of a row
   * @param compute the rows of the items of these numbers; there is at least one
   */
  of(entries: readonly Lookup[], row: Shape, compute: (missing: readonly number[]) => PackedRows): PackedRows {
    const missing = entries.flatMap(({ bytes }, i) => (bytes ? [] : [i]));
    this.counts.read += entries.length - missing.length;
    this.counts.computed += missing.length;
    this.counts.damaged += entries.filter(({ damaged }) => damaged).length;
    return scope(() => {
      const computed = missing.length > 0 ? compute(missing) : undefined;
      if (computed)
        this.keep(
          computed,
          missing.map((i) => entries[i]!.key),
        );
      if (computed && missing.length === entries.length) return computed;
      const fresh = computed ? itemsOf(computed) : [];
      const items = entries.map(({ bytes }, i) => (bytes ? this.stored(bytes, row) : fresh[missing.indexOf(i)]!));
      const lens = items.map(({ shape }) => shape[0]!);
      return { rows: items.length === 1 ? items[0]! : cat(items, 0), lens };
    });
  }

  /** Ends when everything that was computed is kept. */
  async settle(): Promise<void> {
    await this.writing;
  }

  private stored(bytes: Uint8Array, row: Shape): Tensor {
    const values = new Float32Array(bytes.buffer);
    return Tensor.from(values, [values.length / sizeOf(row), ...row], 'f32', this.device);
  }

  private keep({ rows, lens }: PackedRows, keys: readonly string[]): void {
    const read = rows.readFloats();
    const width = sizeOf(rows.shape.slice(1));
    this.writing = this.writing.then(async () => {
      const values = Float32Array.from(await read);
      let begin = 0;
      for (const [i, key] of keys.entries()) {
        const count = lens[i]! * width;
        await this.cache.write(key, new Uint8Array(values.buffer, begin * 4, count * 4));
        begin += count;
      }
      const { writeFailure } = this.cache;
      if (writeFailure) this.counts.failure = writeFailure.message;
    });
    // A failure of the device is told by the step that it belongs to.
    this.writing = this.writing.catch(() => undefined);
  }
}

function itemsOf({ rows, lens }: PackedRows): Tensor[] {
  let end = 0;
  return lens.map((len) => {
    end += len;
    return slice(rows, 0, end - len, end);
  });
}
