/** Samples out of picture files. */
import { createHash } from 'node:crypto';
import { resolve } from 'node:path';
import { InfinityError } from '../errors.js';
import { loadImage, readImageFile } from '../io/image.js';
import type { Pixels } from '../io/pixels.js';
import { mirror, resizeCenterCrop, resizeCrop } from '../io/resize.js';
import { allBad, type BadRow } from './bad_rows.js';
import { BucketPlan } from './buckets.js';
import { chooseCaption } from './captions.js';
import { type FeatureStore, openFeatures, type StoredFeatures } from './feature_store.js';
import type { Listing } from './listing.js';
import type { BatchRequest, Dataset, Purpose, TrainingSample } from './sample.js';
import { CounterRandom } from './shapes/random.js';
import { type PicturesSpec, sampleSizes } from './spec.js';

/** First words of the keys of what is drawn here, so that no two draws meet. */
const Draw = { order: 1, crop: 2, caption: 3, size: 4 } as const;

function reasonOf(error: InfinityError): string {
  const { cause } = error;
  const why = cause instanceof Error ? cause.message : error.message;
  return `${error.code === 'IMAGE_INVALID' ? 'the picture cannot be decoded' : 'the picture cannot be read'} (${why})`;
}

/**
 * An endless walk through a listing: every epoch is a permutation of all rows that its number and the seed decide. A bad row gives
 * its place to the next good one of its epoch, in a circle. Where there are several sizes, each has a walk through its own rows.
 */
export class PictureDataset implements Dataset {
  private readonly sizes: readonly (readonly [height: number, width: number])[];
  /** Numbers of the rows of each size. */
  private readonly rowsOf: readonly (readonly number[])[];
  private readonly plan: BucketPlan | undefined;
  /** Rows that were found bad, so that none is decoded again in vain. */
  private readonly problems = new Map<number, string>();
  private readonly features: StoredFeatures | undefined;
  private order: { readonly key: string; readonly rows: readonly number[] } | undefined;

  constructor(
    private readonly spec: PicturesSpec,
    private readonly purpose: Purpose,
    private readonly listing: Listing,
    features?: FeatureStore,
  ) {
    this.features = features && openFeatures(features);
    this.sizes = sampleSizes(spec);
    const all = [...listing.rows.keys()];
    const several = this.sizes.length > 1;
    this.rowsOf = several ? this.sizes.map((_, k) => all.filter((row) => listing.rows[row]!.bucket === k)) : [all];
    if (several) {
      const counts = this.rowsOf.map((rows) => rows.length);
      this.plan = new BucketPlan(counts, [Draw.size, spec.seed]);
    }
    for (const [row, { problem }] of listing.rows.entries()) if (problem !== undefined) this.problems.set(row, problem);
  }

  sizeOf(batch: BatchRequest): readonly [height: number, width: number] {
    return this.sizes[this.plan?.at(batch).bucket ?? 0]!;
  }

  async sample(index: number, batch: BatchRequest): Promise<TrainingSample> {
    const { rows } = this.listing;
    const { bucket, position } = this.plan?.at(batch) ?? { bucket: 0, position: batch.first };
    const at = position + index - batch.first;
    const bad: BadRow[] = [];
    for (const row of this.candidates(bucket, at)) {
      const found = await this.find(row, index, this.sizes[bucket]!);
      if (found) return { ...found, caption: this.caption(row, index), bad };
      // What was listed as bad is known already.
      if (rows[row]!.problem === undefined) bad.push(this.badRow(row));
    }
    return allBad(
      this.spec.path,
      [...this.problems.keys()].map((row) => this.badRow(row)),
    );
  }

  /** The row at a place of the walk through a size and those that may take its place; the rows of other sizes come last. */
  private *candidates(bucket: number, at: number): Generator<number> {
    const own = this.rowsOf[bucket]!;
    const order = this.orderOf(bucket, Math.floor(at / own.length));
    for (let step = 0; step < own.length; step++) yield order[(at + step) % own.length]!;
    for (const [other, rows] of this.rowsOf.entries()) if (other !== bucket) yield* rows;
  }

  private badRow(row: number): BadRow {
    return { row, name: this.listing.rows[row]!.name, reason: this.problems.get(row)! };
  }

  private orderOf(bucket: number, epoch: number): readonly number[] {
    const key = `${bucket} ${epoch}`;
    if (this.order?.key !== key) {
      // One size has the keys that it had before there were several.
      const random = new CounterRandom(Draw.order, this.spec.seed, epoch, ...(this.plan ? [bucket] : []));
      this.order = { key, rows: random.shuffled(this.rowsOf[bucket]!) };
    }
    return this.order.rows;
  }

  /** What is had of a row's picture, or nothing when the row is bad. */
  private async find(
    row: number,
    index: number,
    size: readonly [number, number],
  ): Promise<Pick<TrainingSample, 'pixels' | 'features'> | undefined> {
    if (this.problems.has(row)) return undefined;
    // A row has an entry only if its picture was decoded once: what is bad has none.
    const features = await this.features?.ofPicture(this.listing.rows[row]!.sha256!, size);
    if (features?.bytes) return { features };
    const picture = await this.picture(row);
    return picture && { pixels: this.prepare(picture, index, size), ...(features ? { features } : {}) };
  }

  /** The decoded picture of a row, or nothing when the row is found bad. */
  private async picture(row: number): Promise<Pixels | undefined> {
    const { image, sha256 } = this.listing.rows[row]!;
    try {
      const bytes = await readImageFile(resolve(this.listing.root, image));
      if (createHash('sha256').update(bytes).digest('hex') === sha256) return await loadImage(bytes);
      this.problems.set(row, 'the picture has changed since the training was opened');
      return undefined;
    } catch (error) {
      if (!(error instanceof InfinityError)) throw error;
      this.problems.set(row, reasonOf(error));
      return undefined;
    }
  }

  /**
   * As the official trainings prepare pictures: the transformer's are cropped in the middle, the tokenizer's anywhere and
   * mirrored half of the time (BitVAE).
   */
  private prepare(picture: Pixels, index: number, [height, width]: readonly [number, number]): Uint8Array {
    const { spec } = this;
    if (this.purpose === 'transformer') return resizeCenterCrop(picture, height, width).data;
    const random = new CounterRandom(Draw.crop, spec.seed, index);
    const cropped = resizeCrop(picture, height, width, (room) => random.below(room + 1));
    return random.chance(0.5) ? mirror(cropped).data : cropped.data;
  }

  private caption(row: number, index: number): string {
    const { captions } = this.listing.rows[row]!;
    if (!captions) return '';
    const { spec } = this;
    if (spec.kind === 'folder') return captions.long;
    const { short_cap_prob: shortProbability = 0.5, enable_dynamic_length_prompt: dynamicLength = true } = spec;
    return chooseCaption(
      captions,
      { shortProbability, dynamicLength },
      new CounterRandom(Draw.caption, spec.seed, index),
    );
  }
}
