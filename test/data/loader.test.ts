import assert from 'node:assert/strict';
import { setImmediate } from 'node:timers/promises';
import { drawBatch } from '../../lib/data/batch.js';
import { type DatasetSource, openDataset } from '../../lib/data/dataset.js';
import { Loader } from '../../lib/data/loader.js';
import type { Dataset } from '../../lib/data/sample.js';

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

  it('draws of a batch what is wanted of it, and goes on behind the whole batch', async () => {
    const wanted = [1, 3, 2];
    for (const ahead of [0, 2]) {
      const loader = new Loader(source, { batchSize: 3, start: 6, ahead, wanted: (n) => wanted[n % 3]! });
      try {
        for (const [n, count] of wanted.entries())
          assert.deepEqual(await loader.next(), await drawBatch(openDataset(source), { first: 6 + 3 * n, count }));
      } finally {
        await loader.close();
      }
    }
  });

  it('holds one sample that is being made at a time: a decoded photo may have hundreds of megabytes', async () => {
    let [open, most, made] = [0, 0, 0];
    const slow: Dataset = {
      sizeOf: () => [16, 16],
      sample: async (index) => {
        most = Math.max(most, ++open);
        await setImmediate();
        open--;
        made++;
        return { pixels: new Uint8Array(16 * 16 * 3).fill(index), caption: `${index}`, bad: [] };
      },
    };
    const { captions, pixels } = await drawBatch(slow, { first: 3, count: 8 });
    assert.deepEqual([most, made, captions.at(-1), pixels.at(-1)], [1, 8, '10', 10]);
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
