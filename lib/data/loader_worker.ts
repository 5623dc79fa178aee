/** The thread behind Loader: draws batches in the order of the requests. */
import { parentPort, workerData } from 'node:worker_threads';
import { InfinityError } from '../errors.js';
import { type Batch, type BatchRequest, drawBatch } from './batch.js';
import { type DatasetSource, openDataset } from './dataset.js';

/** What Loader asks for. Closing lets a picture that is being decoded come to its end: it is decoded outside JavaScript. */
export type LoaderRequest = BatchRequest | 'close';

/** What it gets: a batch, or the parts of an error, whose class would be lost between threads. */
export type LoaderAnswer =
  | { readonly batch: Batch }
  | { readonly failure: Pick<InfinityError, 'code' | 'statement' | 'cure' | 'fields'> };

const port = parentPort!;
const dataset = openDataset(workerData as DatasetSource);
const closing = new AbortController();
let last: Promise<void> = Promise.resolve();

async function answer(request: BatchRequest): Promise<void> {
  try {
    const batch = await drawBatch(dataset, request, closing.signal);
    const { pixels, features = [], textFeatures = [] } = batch;
    const blocks = [pixels, ...[...features, ...textFeatures].flatMap(({ bytes }) => (bytes ? [bytes] : []))];
    port.postMessage(
      { batch } satisfies LoaderAnswer,
      blocks.map(({ buffer }) => buffer as ArrayBuffer),
    );
  } catch (error) {
    if (closing.signal.aborted) return;
    if (!(error instanceof InfinityError)) throw error;
    const { code, statement, cure, fields } = error;
    port.postMessage({ failure: { code, statement, cure, fields } } satisfies LoaderAnswer);
  }
}

port.on('message', (request: LoaderRequest) => {
  if (request !== 'close') {
    last = last.then(() => answer(request));
    return;
  }
  closing.abort();
  last = last.then(() => port.close());
});
