import assert from 'node:assert/strict';
import { DYNAMIC_SCHEDULES, type ScheduleMode, tokenizerSchedule } from '../../lib/tokenizer/schedule_modes.js';
import { readGoldenJson } from '../support/goldens.js';

interface Golden {
  tokenizer_table_dynamic: Record<string, number[][]>;
  tokenizer_modes: Record<string, number[][]>;
  bitvae_modes: Record<string, number[][]>;
}

describe('tokenizer schedule modes', () => {
  it('dynamic agrees with the published table, in its order', function () {
    const { tokenizer_table_dynamic: table } = readGoldenJson<Golden>(this, 'tokenizer/schedules.json');
    assert.deepEqual([...DYNAMIC_SCHEDULES.keys()], Object.keys(table));
    for (const [size, grids] of Object.entries(table)) {
      const [h, w] = size.split('x').map(Number);
      assert.deepEqual(
        tokenizerSchedule('dynamic', h, w),
        grids.map((grid) => [1, ...grid]),
      );
    }
  });

  it('named modes agree with the published lists', function () {
    const golden = readGoldenJson<Golden>(this, 'tokenizer/schedules.json');
    const modes = { ...golden.tokenizer_modes, ...golden.bitvae_modes };
    assert.ok(Object.keys(modes).length >= 10);
    for (const [key, scales] of Object.entries(modes)) {
      const [mode, size] = key.split(':');
      const [h, w] = size.split('x').map(Number);
      assert.deepEqual(tokenizerSchedule(mode as ScheduleMode, h, w), scales, key);
    }
  });

  it('same1..3 repeat the full grid of any size', () => {
    assert.deepEqual(tokenizerSchedule('same1', 7, 5), [[1, 7, 5]]);
    assert.deepEqual(tokenizerSchedule('same3', 7, 5), Array(3).fill([1, 7, 5]));
  });

  it('an unknown grid is refused with the list of known ones', () => {
    assert.throws(() => tokenizerSchedule('dense', 8, 8), { code: 'UNSUPPORTED_SIZE', cure: /16x16, 32x32, 64x64/ });
    assert.throws(() => tokenizerSchedule('dynamic', 48, 48), { code: 'UNSUPPORTED_SIZE' });
    assert.throws(() => tokenizerSchedule('toString' as ScheduleMode, 16, 16), { code: 'INVALID_ARGUMENT' });
  });
});
