import assert from 'node:assert/strict';
import { drawBatch } from '../../lib/data/batch.js';
import { type DatasetSource, openDataset } from '../../lib/data/dataset.js';
import { Loader } from '../../lib/data/loader.js';

const source: DatasetSource = { spec: { kind: 'shapes', seed: 1, size: 16 }, purpose: 'transformer' };

describe('data loader', () => {
  it('draws ahead in a worker what it would draw in this thread, in order', async () => {
    const loader = new Loader(source, { batchSize: 3, start: 6, ahead: 2 });
    try {
      for (let first = 6; first < 18; first += 3)
        assert.deepEqual(await loader.next(), await drawBatch(openDataset(source), { first, count: 3 }));
    } finally {
      await loader.close();
    }
  });
  it('a failing dataset rejects the batch instead of hanging', async () => {
    const loader = new Loader(
      { ...source, spec: { ...source.spec, size: -1 } as DatasetSource['spec'] },
      { batchSize: 1, start: 0, ahead: 1 },
    );
    try {
      await assert.rejects(loader.next(), /size/);
    } finally {
      await loader.close();
    }
  });
});
