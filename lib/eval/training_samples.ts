/** What a training has learned so far, to look at: the same few pictures, drawn with every checkpoint that it writes. */
import { openDataset } from '../data/dataset.js';
import { InfinityError } from '../errors.js';
import { Image } from '../io/index.js';
import { pictureGrid } from '../io/picture_grid.js';
import { InfinityPipeline } from '../pipeline/index.js';
import { sampleCount } from '../training/config.js';
import type { Training } from '../training/open.js';

/** Pictures of a row. */
const COLUMNS = 8;

/** What is drawn, and with what. */
export interface SampleOptions {
  /** Checkpoint that the training exported. */
  readonly checkpoint: string;
  readonly step: number;
  readonly signal?: AbortSignal;
}

/** What a grid's PNG says of itself. */
export interface SampleMetadata {
  readonly step: number;
  readonly columns: number;
  /** Of the pictures in their order; absent where pictures stand below their originals. */
  readonly prompts?: readonly string[];
}

function inRows<T>(items: readonly T[]): T[][] {
  const rows = Math.ceil(items.length / COLUMNS);
  return Array.from({ length: rows }, (_, r) => items.slice(r * COLUMNS, (r + 1) * COLUMNS));
}

/** A prompt without its last quarter of words, or of characters where it is one word. */
function shortened(prompt: string): string {
  const words = prompt.split(/\s+/);
  return words.length > 1
    ? words.slice(0, Math.min(words.length - 1, Math.ceil(words.length * 0.75))).join(' ')
    : prompt.slice(0, Math.floor(prompt.length * 0.75));
}

/** Draws prompts; captions that are too long for the model are cut, as in the training. */
async function generate(pipe: InfinityPipeline, prompts: readonly string[], seed: number, signal?: AbortSignal) {
  for (let drawn = prompts; ; ) {
    try {
      return (await pipe.generate(drawn, { seed, signal })).images;
    } catch (error) {
      if (!(error instanceof InfinityError && error.code === 'PROMPT_TOO_LONG')) throw error;
      drawn = drawn.map((prompt) => (prompt === error.value ? shortened(prompt) : prompt));
    }
  }
}

/**
 * The sample grid of a checkpoint: for a transformer its pictures of fixed prompts, for a tokenizer pictures above their
 * reconstructions. Seeds are fixed, and nothing of the training's state is read or written.
 *
 * @returns the grid with `SampleMetadata`, or undefined where the configuration asks for none
 * @throws InfinityError as loading and drawing do; the signal's reason
 */
export async function drawTrainingSamples(
  { source, config }: Pick<Training, 'source' | 'config'>,
  { checkpoint, step, signal }: SampleOptions,
): Promise<Image | undefined> {
  const count = sampleCount(config);
  const given = config.samples?.prompts;
  if (count === 0) return undefined;
  const dataset = openDataset(source);
  const batch = { first: 0, count };
  const samples = given ? [] : await Promise.all(Array.from({ length: count }, (_, i) => dataset.sample(i, batch)));
  await using pipe = await InfinityPipeline.fromPretrained(checkpoint, { signal });
  if (source.purpose === 'transformer') {
    const prompts = given ?? samples.map(({ caption }) => caption);
    const rows = inRows(await generate(pipe, prompts, config.seed, signal));
    const metadata: SampleMetadata = { step, columns: rows[0]!.length, prompts };
    return new Image({ ...pictureGrid(rows), metadata: { samples: metadata } });
  }
  const [height, width] = dataset.sizeOf(batch);
  const pictures = samples.map(({ pixels }) => new Image({ width, height, data: pixels! }));
  const results: Image[] = [];
  for (const picture of pictures) results.push((await pipe.reconstruct(picture, { signal })).image);
  const rows = inRows(pictures).flatMap((row, i) => [row, inRows(results)[i]!]);
  const metadata: SampleMetadata = { step, columns: rows[0]!.length };
  return new Image({ ...pictureGrid(rows), metadata: { samples: metadata } });
}
