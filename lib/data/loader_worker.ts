/** The thread behind Loader: draws batches in the order of the requests. */
import { parentPort, workerData } from 'node:worker_threads';
import { type BatchRequest, drawBatch } from './batch.js';
import type { DatasetSpec } from './dataset.js';

parentPort?.on('message', (request: BatchRequest) => {
  const batch = drawBatch(workerData as DatasetSpec, request);
  parentPort?.postMessage(batch, [batch.pixels.buffer as ArrayBuffer]);
});
