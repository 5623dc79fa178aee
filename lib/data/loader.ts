/** Batches in order, drawn in a worker thread ahead of their use so that the event loop and the queue never wait for them. */
import { once } from 'node:events';
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import { InfinityError } from '../errors.js';
import { type Batch, type BatchRequest, drawBatch } from './batch.js';
import type { DatasetSpec } from './dataset.js';

/** Which batches a loader gives, and how far it runs ahead of them. */
export interface LoaderOptions {
  readonly batchSize: number;
  /** Index of the first sample. */
  readonly start: number;
  /** Batches drawn ahead. 0 draws each in this thread when it is asked for. */
  readonly ahead: number;
}

function startWorker(workerData: DatasetSpec): Worker {
  const extension = extname(import.meta.url);
  const entry = new URL(`./loader_worker${extension}`, import.meta.url);
  if (extension !== '.ts') return new Worker(entry, { workerData });
  // Run from its sources, under tsx, whose hooks a new thread does not inherit.
  const load = `import('tsx/esm/api').then(({ tsImport }) => tsImport('${entry.href}', '${import.meta.url}'))`;
  return new Worker(load, { eval: true, workerData });
}

/** Gives the batches of a dataset in order, from `start` on, without end. Close it when done. */
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
