/** The JSON files of a checkpoint folder. */
import assert from 'node:assert/strict';
import { InfinityError } from '../../../lib/errors.js';
import { makeIndex, parseIndex, parseJsonObject } from '../../../lib/io/model_index.js';
import { parseShardIndex } from '../../../lib/io/sharded.js';
import { samplingDefaults } from '../../../lib/pipeline/options.js';
import { checkpointSizes } from '../../../lib/pipeline/sizes.js';
import { FLAN_T5_XL, parseT5Config } from '../../../lib/text/t5_config.js';
import { officialAutoencoderConfig, parseAutoencoderConfig } from '../../../lib/tokenizer/config.js';
import { parseGrids } from '../../../lib/tokenizer/schedule.js';
import {
  dropPathRates,
  officialInfinityConfig,
  parseInfinityConfig,
  ropeFinest,
} from '../../../lib/transformer/config.js';
import { mutateJson } from '../mutate.js';
import type { FuzzTarget } from '../target.js';

type Json = Readonly<Record<string, unknown>>;

const SIZES = checkpointSizes(['1 2 4', '1 1x2 2x4'].map(parseGrids), 16);

/** What a parser makes of a document it accepts, it accepts again and makes the same of. */
const PARSERS: readonly ((json: Json) => void)[] = [
  (json) => {
    const index = parseIndex(json, 'model_index.json');
    assert.deepEqual(parseIndex({ ...index }, 'model_index.json'), index);
    for (const name of Object.keys(index.files)) assert.ok(!name.includes('..') && !name.startsWith('/'), name);
  },
  (json) => {
    const config = parseInfinityConfig(json);
    assert.deepEqual(parseInfinityConfig(config), config);
    for (const schedule of config.scale_schedules ?? []) ropeFinest(config, schedule);
    if (config.depth < 1000) dropPathRates(config);
    checkpointSizes(config.scale_schedules, 16);
  },
  (json) => {
    const shards = parseShardIndex(Buffer.from(JSON.stringify(json)));
    for (const shard of shards.values()) assert.ok(!shard.includes('/') && !shard.startsWith('.'), shard);
  },
  (json) => assert.ok(parseAutoencoderConfig(json).patch_size >= 1),
  (json) => assert.deepEqual(parseT5Config(parseT5Config(json)), parseT5Config(json)),
  (json) => assert.ok(samplingDefaults(json, SIZES).size.length === 2),
];

export const config: FuzzTarget = {
  name: 'config',
  seeds() {
    const files = { 'vae/config.json': { bytes: 10, sha256: '0'.repeat(64) } };
    const documents = [
      makeIndex(['vae'], files),
      { ...officialInfinityConfig('infinity_2b') },
      officialInfinityConfig('infinity_layer12', { scale_schedules: ['1 2 4', '1 1x2 2x4'].map(parseGrids) }),
      { ...officialAutoencoderConfig(32), norm_groups: 4, scale_schedule: '1 2 4' },
      FLAN_T5_XL,
      { metadata: { total_size: 10 }, weight_map: { 'a.weight': 'model-00001-of-00001.safetensors' } },
      { guidance: 3, tau: [1, 0.5, 0.5], top_k: 900, top_p: 0.97, size: [64, 64] },
    ];
    return documents.map((document) => Buffer.from(JSON.stringify(document, null, 1)));
  },
  read(file) {
    const json = parseJsonObject(Buffer.from(file).toString('utf8'), 'config.json');
    const refusals = PARSERS.map((parse) => {
      try {
        parse(json);
        return undefined;
      } catch (error) {
        if (error instanceof InfinityError) return error;
        throw error;
      }
    });
    // Accepted when one of them takes it.
    if (refusals.every((refusal) => refusal !== undefined)) throw refusals[0];
  },
  mutate: mutateJson,
};
