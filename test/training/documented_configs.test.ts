/** The configurations that the pages on training show can be trained as they stand. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { packageRoot } from '../../lib/native.js';
import { checkTokenizerConfig } from '../../lib/training/tokenizer_config.js';

describe('the documented tokenizer configurations', () => {
  let blocks: Record<string, unknown>[];
  before(async () => {
    const pages = ['training.md', 'training-configuration.md'].map((page) =>
      readFile(join(packageRoot(), 'docs', page), 'utf8'),
    );
    const text = (await Promise.all(pages)).join('\n');
    blocks = [...text.matchAll(/^```json\n(\{.*?)^```/gms)].map(([, json]) => JSON.parse(json!));
  });

  it('are valid', () => {
    const whole = blocks.filter((block) => 'autoencoder' in block);
    assert.ok(whole.length >= 2);
    for (const config of whole) checkTokenizerConfig(config);
  });

  it('are the published stages', () => {
    const stage1 = blocks.find(({ schedule }) => schedule === 'dense')!;
    const stage2 = { ...stage1, ...blocks.find((block) => 'resolutions' in block) };
    const one = checkTokenizerConfig(stage1);
    assert.deepEqual([one.resolutions.length, one.resolutions[0]!.schedule.length], [1, 16]);
    const two = checkTokenizerConfig(stage2);
    assert.deepEqual(
      two.resolutions.map(({ batch, schedule }) => [batch, schedule.length]),
      [
        [8, 16],
        [4, 20],
        [2, 24],
      ],
    );
    assert.equal(two.config.discriminator!.start, 0);
  });
});
