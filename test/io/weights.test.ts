import assert from 'node:assert/strict';
import { InfinityError } from '../../lib/errors.js';
import type { TensorInfo } from '../../lib/io/tensor_data.js';
import { checkTensors } from '../../lib/io/weights.js';

describe('weights against a configuration', () => {
  const expected = new Map([
    ['a.weight', [2, 3]],
    ['a.bias', [2]],
  ]);
  const good: [string, TensorInfo][] = [
    ['a.weight', { dtype: 'BF16', shape: [2, 3] }],
    ['a.bias', { dtype: 'F32', shape: [2] }],
  ];
  const check = (entries: [string, TensorInfo][], ignore?: (name: string) => boolean) =>
    checkTensors(new Map(entries), expected, { name: 'vae/model.safetensors', ignore });

  it('accepts what fits, in any floating type, and ignored extras', () => {
    check(good);
    check([...good, ['lfq.mask', { dtype: 'I64', shape: [16] }]], (name) => name === 'lfq.mask');
  });

  it('names every tensor with what was expected and found', () => {
    const bad: [string, TensorInfo][] = [
      ['a.weight', { dtype: 'F32', shape: [3, 2] }],
      ['b.bias', { dtype: 'F32', shape: [2] }],
    ];
    assert.throws(
      () => check(bad),
      (error: unknown) => {
        assert.ok(error instanceof InfinityError);
        assert.equal(error.code, 'CHECKPOINT_CONFIG_MISMATCH');
        assert.match(error.message, /vae.model\.safetensors/);
        assert.deepEqual(error.fields.mismatches, [
          { tensor: 'a.weight', expected: 'F32 [2, 3]', found: 'F32 [3, 2]' },
          { tensor: 'a.bias', expected: 'F64 [2]', found: 'nothing' },
          { tensor: 'b.bias', expected: 'nothing', found: 'F32 [2]' },
        ]);
        for (const name of ['a.weight', 'a.bias', 'b.bias']) assert.ok(error.message.includes(`"${name}"`));
        return true;
      },
    );
  });

  it('refuses a wrong type', () => {
    assert.throws(() => check([good[0], ['a.bias', { dtype: 'I32', shape: [2] }]]), {
      code: 'CHECKPOINT_CONFIG_MISMATCH',
      message: /found I32 \[2\]/,
    });
  });

  it('keeps a long list short', () => {
    const many = Array.from({ length: 40 }, (_, i): [string, TensorInfo] => [`x${i}`, { dtype: 'F32', shape: [] }]);
    assert.throws(() => check([...good, ...many]), { message: /and 28 more/ });
  });
});
