import assert from 'node:assert/strict';
import { native, requireSameOps } from '../../lib/native.js';
import { OPS_DIGEST } from '../../lib/ops_digest.js';

describe('the native addon', () => {
  it('digests the table of ops as its generator does', () => {
    assert.equal(native().capabilities().opsDigest, OPS_DIGEST);
  });

  it('is refused, with the cure, when it was built from another table of ops or before there was a digest', () => {
    const { opsDigest, ...others } = native().capabilities();
    for (const capabilities of [
      { ...others, opsDigest: opsDigest ^ 1 },
      others as typeof others & { opsDigest: number },
    ])
      assert.throws(() => requireSameOps({ capabilities: () => capabilities }, 'old.node'), {
        code: 'NATIVE_BINARY_MISSING',
        value: 'old.node',
        message: /another table of ops.*npm run build:native/,
      });
    requireSameOps(native(), 'new.node');
  });
});
