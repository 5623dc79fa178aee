/** Batches in order, drawn in a worker thread ahead of their use so that the event loop and the queue never wait for them. */
import { once } from 'node:events';
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import { InfinityError } from '../errors.js';
import { type DatasetSpec, openDataset } from './dataset.js';

export interface Batch {
  /** Samples `first … first + count - 1` of the dataset. */
  readonly first: number;
  /** RGB bytes, [count, height, width, 3]. */
  readonly pixels: Uint8Array;
  readonly captions: readonly string[];
}

export interface LoaderOptions {
  readonly batchSize: number;
  /** Index of the first sample. */
  readonly start: number;
  /** Batches drawn ahead. 0 draws each in this thread when it is asked for. */
  readonly ahead: number;
}

/** What the worker is asked; see loader_worker.ts. */
export interface BatchRequest {
  readonly first: number;
  readonly count: number;
}

export function drawBatch(spec: DatasetSpec, { first, count }: BatchRequest): Batch {
  const dataset = openDataset(spec);
  const stride = dataset.height * dataset.width * 3;
  const pixels = new Uint8Array(count * stride);
  const captions: string[] = [];
  for (let i = 0; i < count; i++) {
    const sample = dataset.sample(first + i);
    pixels.set(sample.pixels, i * stride);
    captions.push(sample.caption);
  }
  return { first, pixels, captions };
}

function startWorker(workerData: DatasetSpec): Worker {
  const extension = extname(import.meta.url);
  const entry = new URL(`./loader_worker${extension}`, import.meta.url);
  if (extension !== '.ts') return new Worker(entry, { workerData });
  // Run from its sources, under tsx, whose hooks a new thread does not inherit.
  const load = `import('tsx/esm/api').then(({ tsImport }) => tsImport('${entry.href}', '${import.meta.url}'))`;
  return new Worker(load, { eval: true, workerData });
}

export class Loader {
  private readonly worker: Worker | undefined;
  private readonly ready: Batch[] = [];
  private asked: number;
  private failure: InfinityError | undefined;

  constructor(
    private readonly spec: DatasetSpec,
    private readonly options: LoaderOptions,
  ) {
    this.asked = options.start;
    if (options.ahead === 0) return;
    this.worker = startWorker(spec);
    this.worker.on('message', (batch: Batch) => this.ready.push(batch));
    this.worker.on('error', (cause) => {
      this.failure = new InfinityError('INTERNAL', `The data worker failed: ${cause.message}`, { cause });
    });
    for (let i = 0; i < options.ahead; i++) this.ask();
  }

  private ask(): void {
    const request: BatchRequest = { first: this.asked, count: this.options.batchSize };
    this.asked += request.count;
    this.worker?.postMessage(request);
  }

  /** The next batch in order. */
  async next(): Promise<Batch> {
    if (!this.worker) {
      const first = this.asked;
      this.asked += this.options.batchSize;
      return drawBatch(this.spec, { first, count: this.options.batchSize });
    }
    while (this.ready.length === 0) {
      if (this.failure) throw this.failure;
      // A failed worker ends the wait as well; what it failed with is thrown in the next round.
      await once(this.worker, 'message').catch(() => undefined);
    }
    this.ask();
    return this.ready.shift()!;
  }

  async close(): Promise<void> {
    await this.worker?.terminate();
  }
}
