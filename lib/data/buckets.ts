/**
 * Pictures of mixed shapes: each is cut to the nearest of several sizes, and a batch holds one size. Source: Infinity,
 * infinity/dataset/dataset_t2i_iterable.py, infinity/utils/dynamic_resolution.py.
 */
import { resolve } from 'node:path';
import { loadImageCodec, readImageSize } from '../io/image.js';
import { mapFiles, type Row } from './rows.js';
import type { BatchRequest } from './sample.js';
import { CounterRandom } from './shapes/random.js';

type Size = readonly [height: number, width: number];

/** The first size with the smallest |ratio - height / width|. */
function nearest(sizes: readonly Size[], ratio: number): number {
  const distances = sizes.map(([height, width]) => Math.abs(ratio - height / width));
  return distances.indexOf(Math.min(...distances));
}

/**
 * Rows with the number of their size: by the shape that the row says, as in the official loader, else by that of the picture. A
 * picture that cannot be read counts among the first size until it is found bad.
 */
export async function withBuckets(rows: readonly Row[], root: string, sizes: readonly Size[]): Promise<Row[]> {
  await loadImageCodec();
  return mapFiles(rows, async (row) => {
    if (row.problem !== undefined) return row;
    const found = row.ratio === undefined ? await readImageSize(resolve(root, row.image)) : undefined;
    const ratio = row.ratio ?? (found ? found[0] / found[1] : undefined);
    return { ...row, bucket: ratio === undefined ? 0 : nearest(sizes, ratio) };
  });
}

/** A batch of a cycle, and how many batches of its size come before it there. */
interface Turn {
  readonly bucket: number;
  readonly before: number;
}

/** A place in the endless walk through the rows of one size. */
export interface BucketPlace {
  readonly bucket: number;
  /** Of the batch's first sample. */
  readonly position: number;
}

/**
 * Which size each batch has: a cycle has as many batches of a size as its rows fill, rounded, at least one, in an order that the seed
 * and the number of the cycle decide. No row is left out: the walk through a size goes on where its last batch ended.
 */
export class BucketPlan {
  private cycle: { readonly key: string; readonly order: readonly Turn[] } | undefined;

  /** @param counts rows of each size */
  constructor(
    private readonly counts: readonly number[],
    private readonly key: readonly number[],
  ) {}

  /** The place of a batch whose first sample is a multiple of its count. */
  at({ first, count }: BatchRequest): BucketPlace {
    const shares = this.counts.map((rows) => (rows === 0 ? 0 : Math.max(1, Math.round(rows / count))));
    const batches = shares.reduce((sum, share) => sum + share, 0);
    const number = Math.floor(first / count);
    const [cycle, at] = [Math.floor(number / batches), number % batches];
    const order = this.orderOf(cycle, shares);
    const { bucket, before } = order[at]!;
    return { bucket, position: (cycle * shares[bucket]! + before) * count };
  }

  private orderOf(cycle: number, shares: readonly number[]): readonly Turn[] {
    const key = `${cycle} ${shares}`;
    if (this.cycle?.key !== key) {
      const turns = shares.flatMap((share, bucket) => new Array<number>(share).fill(bucket));
      const taken = shares.map(() => 0);
      const order = new CounterRandom(...this.key, cycle)
        .shuffled(turns)
        .map((bucket): Turn => ({ bucket, before: taken[bucket]!++ }));
      this.cycle = { key, order };
    }
    return this.cycle.order;
  }
}
