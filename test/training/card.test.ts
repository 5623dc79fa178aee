import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Device } from '../../lib/device.js';
import { openTraining } from '../../lib/training/index.js';
import { CUDA } from '../support/numeric.js';
import { runSome, tokenizerConfig, transformerConfig, using } from '../support/tiny_training.js';

describe(`training on ${CUDA}`, function () {
  this.timeout(120_000);
  let root: string;
  let tokenizer: string;
  let device: Device;
  before(async function () {
    if (!process.env.NODE_INFINITY_CUDA_LIBRARY) this.skip(); // needs NODE_INFINITY_CUDA_LIBRARY
    root = await mkdtemp(join(tmpdir(), 'infinity-card-training-'));
    tokenizer = join(root, 'tokenizer');
    await using(await openTraining('tokenizer', { config: tokenizerConfig }), (t) => t.export(tokenizer));
    device = Device.create('cuda');
  });
  after(async () => {
    device?.close();
    if (root) await rm(root, { recursive: true, force: true });
  });

  const losses = async (name: string, where: Device, change: object = {}): Promise<number[]> => {
    const config = { ...transformerConfig, ...change };
    const training = await openTraining('transformer', { config, tokenizer, device: where });
    return (await using(training, (t) => runSome(t, join(root, name), 3))).map(({ loss }) => loss);
  };
  const assertNear = (got: readonly number[], want: readonly number[], tolerance: number) => {
    assert.equal(got.length, want.length);
    for (const [i, loss] of got.entries())
      assert.ok(Math.abs(loss - want[i]!) < tolerance * want[i]!, `step ${i + 1}: ${loss}, not ${want[i]}`);
  };

  it('has the losses of the processor in f32, and nearly so in bf16, and leaves nothing behind', async () => {
    const want = await losses('processor', Device.default('cpu'));
    const { liveTensors } = device.stats();
    assertNear(await losses('f32', device), want, 1e-4);
    assertNear(await losses('bf16', device, { dtype: 'bf16' }), want, 1e-2);
    assert.equal(device.stats().liveTensors, liveTensors);
  });

  it('is refused in bf16 on the processor', async () => {
    const config = { ...transformerConfig, dtype: 'bf16' };
    await assert.rejects(openTraining('transformer', { config, tokenizer, device: Device.default('cpu') }), {
      code: 'UNSUPPORTED_DTYPE',
    });
  });
});
