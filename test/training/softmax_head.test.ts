import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Checkpoint } from '../../lib/io/checkpoint.js';
import { InfinityPipeline } from '../../lib/pipeline/pipeline.js';
import { openTraining } from '../../lib/training/index.js';
import { runSome, tokenizerConfig, transformerConfig, using } from '../support/tiny_training.js';

describe('training with the softmax head', () => {
  let root: string;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-softmax-'));
  });
  after(() => rm(root, { recursive: true, force: true }));

  it('trains, is exported and draws like any other model', async () => {
    const [tokenizer, exported] = [join(root, 'tokenizer'), join(root, 'checkpoint')];
    await using(await openTraining('tokenizer', { config: tokenizerConfig }), (t) => t.export(tokenizer));
    const transformer = { ...transformerConfig.transformer, head: 'softmax' };
    const config = { ...transformerConfig, transformer };
    const events = await using(await openTraining('transformer', { config, tokenizer }), async (t) => {
      const all = await runSome(t, join(root, 'run'));
      await t.export(exported);
      return all;
    });
    assert.equal(events.length, 6);
    // In nats a bit, as with the other head: an untrained classifier knows nothing of four bits.
    assert.ok(Math.abs(events[0]!.loss - Math.LN2) < 0.05, `${events[0]!.loss}`);
    assert.ok(events[0]!.metrics.accuracy! > 0.2 && events[0]!.metrics.accuracy! < 0.8);
    const { config: saved } = await (await Checkpoint.open(exported)).component('transformer');
    assert.equal(saved.head, 'softmax');
    const pipe = await InfinityPipeline.fromPretrained(exported);
    try {
      const draw = async () => (await pipe.generate('a red circle', { seed: 3, topK: 5, topP: 0.9 })).images[0]!;
      const [first, again] = [await draw(), await draw()];
      assert.deepEqual([first.width, first.height], [16, 16]);
      assert.deepEqual(again.data, first.data);
    } finally {
      await pipe.dispose();
    }
  });
});
