/** Batches in order, drawn in a worker thread ahead of their use so that the event loop and the queue never wait for them. */
import { once } from 'node:events';
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import { InfinityError } from '../errors.js';
import { type BadRow, BadRows, type BadRowsReport } from './bad_rows.js';
import { type Batch, drawBatch } from './batch.js';
import { type DatasetSource, openDataset, pathsOf } from './dataset.js';
import { listedAsBad } from './listing.js';
import type { LoaderAnswer, LoaderRequest } from './loader_worker.js';
import type { BatchRequest } from './sample.js';

/** Which batches a loader gives, and how far it runs ahead of them. */
export interface LoaderOptions {
  readonly batchSize: number;
  /** Index of the first sample. */
  readonly start: number;
  /** Batches drawn ahead, which bounds the memory. 0 draws each in this thread when it is asked for. */
  readonly ahead: number;
  /** How many samples of the batch `n` after the start are wanted, the first ones; all by default. */
  readonly wanted?: ((n: number) => number) | undefined;
  /** Gets the bad rows, where several loaders count into one; each by itself by default. */
  readonly bad?: BadRows;
}

function startWorker(workerData: DatasetSource): Worker {
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
  private readonly bad: BadRows;
  private asked: number;
  private failure: InfinityError | undefined;
  private ended = false;
  private wake: (() => void) | undefined;

  constructor(
    private readonly source: DatasetSource,
    private readonly options: LoaderOptions,
  ) {
    this.asked = options.start;
    this.bad = options.bad ?? new BadRows(pathsOf([source]));
    if (source.listing) this.tellBad(listedAsBad(source.listing));
    if (options.ahead === 0) return;
    this.worker = startWorker(source);
    this.worker.on('message', (answer: LoaderAnswer) => {
      if ('batch' in answer) this.ready.push(answer.batch);
      else this.failure ??= new InfinityError(answer.failure.code, answer.failure.statement, answer.failure);
      this.wake?.();
    });
    this.worker.on('error', (cause) => {
      this.failure ??= new InfinityError('INTERNAL', `The data worker failed: ${cause.message}`, { cause });
      this.wake?.();
    });
    this.worker.on('exit', (code) => {
      this.ended = true;
      this.failure ??= new InfinityError('INTERNAL', `The data worker ended with code ${code}.`);
      this.wake?.();
    });
    for (let i = 0; i < options.ahead; i++) this.ask();
  }

  /** The next request of `batchSize` samples. */
  private advance(): BatchRequest {
    const { batchSize: count, start, wanted } = this.options;
    const first = this.asked;
    this.asked += count;
    return { first, count, wanted: wanted?.((first - start) / count) };
  }

  private tellBad(rows: readonly BadRow[]): void {
    const { spec } = this.source;
    if (spec.kind !== 'shapes') this.bad.add(spec.path, rows);
  }

  private ask(): void {
    this.worker?.postMessage(this.advance() satisfies LoaderRequest);
  }

  /** The next batch in order. @throws InfinityError INVALID_ARGUMENT when no sample can be made of any row */
  async next(): Promise<Batch> {
    const batch = this.worker ? await this.arrival() : await drawBatch(openDataset(this.source), this.advance());
    this.tellBad(batch.bad);
    return batch;
  }

  private async arrival(): Promise<Batch> {
    while (this.ready.length === 0) {
      if (this.failure) throw this.failure;
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
    this.ask();
    return this.ready.shift()!;
  }

  /** Bad rows among those listed and those met in the batches so far. */
  badRows(): BadRowsReport {
    return this.bad.report();
  }

  async close(): Promise<void> {
    if (!this.worker || this.ended) return;
    const exit = once(this.worker, 'exit');
    this.worker.postMessage('close' satisfies LoaderRequest);
    await exit;
  }
}
