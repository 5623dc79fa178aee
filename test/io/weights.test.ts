import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { tensorsBelow } from '../../lib/io/nested_tensors.js';
import { fromFloat32, type TensorData } from '../../lib/io/tensor_data.js';
import type { TensorSource } from '../../lib/io/tensor_source.js';
import { weightFile } from '../../lib/io/weight_path.js';
import { floatWeights } from '../../lib/io/weights.js';

/** A source in memory that counts how often it was closed. */
function sourceOf(tensors: ReadonlyMap<string, TensorData>): TensorSource & { closed: number } {
  return {
    closed: 0,
    tensors,
    metadata: {},
    read: async (name) => tensors.get(name) ?? assert.fail(name),
    async close() {
      this.closed++;
    },
  };
}

const one = (value: number): TensorData => fromFloat32(Float32Array.of(value), [1]);

describe('weights in a source', () => {
  it('are its floating-point tensors; the others are described', async () => {
    const mask: TensorData = { dtype: 'I64', shape: [2], data: new Uint8Array(16) };
    const half = fromFloat32(Float32Array.of(1.5), [1], 'BF16');
    const weights = floatWeights(
      sourceOf(
        new Map([
          ['a', half],
          ['mask', mask],
        ]),
      ),
      'file',
    );
    assert.deepEqual(
      [weights.name, [...weights.shapes], [...weights.others]],
      ['file', [['a', [1]]], [['mask', 'I64 [2]']]],
    );
    assert.deepEqual([...(await weights.read('a'))], [1.5]);
  });

  it('are found below a prefix and without the segments of wrappers', async () => {
    const source = sourceOf(
      new Map([
        ['trainer.gpt._fsdp_wrapped_module.blocks.0._checkpoint_wrapped_module.w', one(1)],
        ['trainer.gpt.b', one(2)],
        ['trainer.gpt_opt.b', one(3)],
        ['_orig_mod.c', one(4)],
      ]),
    );
    const view = tensorsBelow(source, 'trainer.gpt.');
    assert.deepEqual([...view.tensors.keys()], ['blocks.0.w', 'b']);
    assert.equal(
      await view.read('blocks.0.w'),
      source.tensors.get('trainer.gpt._fsdp_wrapped_module.blocks.0._checkpoint_wrapped_module.w'),
    );
    assert.ok(tensorsBelow(source, '').tensors.has('c'));
    await view.close();
    assert.equal(source.closed, 1);
  });
});

describe('the file of weights in a folder', () => {
  let dir: string;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'weights-'));
  });
  afterEach(() => rm(dir, { recursive: true }));
  const put = (...names: string[]) => Promise.all(names.map((name) => writeFile(join(dir, name), '')));

  it('has a usual name, or is the only one of its kind', async () => {
    await put('config.json', 'a-00001-of-00002.bin', 'a-00002-of-00002.bin', 'a.bin.index.json');
    assert.equal(await weightFile(dir), join(dir, 'a.bin.index.json'));
    await put('pytorch_model.bin');
    assert.equal(await weightFile(dir), join(dir, 'pytorch_model.bin'));
    await put('model.safetensors.index.json', 'model.safetensors');
    assert.equal(await weightFile(dir), join(dir, 'model.safetensors.index.json'));
    assert.equal(await weightFile(join(dir, 'config.json')), join(dir, 'config.json'));
  });

  it('is an error where it is missing or unclear', async () => {
    const absent = join(dir, 'absent');
    await assert.rejects(weightFile(absent), { code: 'MODEL_NOT_FOUND', value: absent });
    await mkdir(join(dir, 'empty'));
    await assert.rejects(weightFile(join(dir, 'empty')), { code: 'MODEL_NOT_FOUND', message: /no weights/ });
    await put('a.pth', 'b.pth');
    await assert.rejects(weightFile(dir), { code: 'MODEL_NOT_FOUND', message: /2: a\.pth, b\.pth/ });
  });
});
