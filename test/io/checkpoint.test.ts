import assert from 'node:assert/strict';
import { appendFile, mkdir, mkdtemp, readdir, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Checkpoint, type CheckpointContent, type Component, writeCheckpoint } from '../../lib/io/checkpoint.js';
import { writeSafetensors } from '../../lib/io/safetensors.js';
import { fromFloat32, type TensorData, toFloat32 } from '../../lib/io/tensor_data.js';
import { floatWeights } from '../../lib/io/weights.js';

const component = (value: number): Component => ({
  config: { width: value },
  tensors: new Map([
    ['weight', fromFloat32(Float32Array.of(value, value + 1), [2], 'BF16')],
    ['mask', { dtype: 'U8', shape: [1], data: Uint8Array.of(1) } as TensorData],
  ]),
});

const content: CheckpointContent = {
  components: { transformer: component(1), vae: component(3) },
  generationConfig: { guidance: 3 },
  tokenizer: { version: '1.0' },
  texts: { 'README.md': '# card\n' },
};

describe('checkpoint folder', () => {
  let dir: string;
  let model: string;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'checkpoint-'));
    model = join(dir, 'model');
    await writeCheckpoint(model, content);
  });
  afterEach(() => rm(dir, { recursive: true }));

  it('gives back what was written and leaves nothing else', async () => {
    assert.deepEqual(await readdir(dir), ['model']);
    const files = await readdir(model, { recursive: true });
    assert.deepEqual(files.sort(), [
      'README.md',
      'generation_config.json',
      'model_index.json',
      'tokenizer',
      'tokenizer/tokenizer.json',
      'transformer',
      'transformer/config.json',
      'transformer/model.safetensors',
      'vae',
      'vae/config.json',
      'vae/model.safetensors',
    ]);
    const checkpoint = await Checkpoint.open(model);
    assert.deepEqual(checkpoint.index.components, ['transformer', 'vae', 'tokenizer']);
    assert.deepEqual(await checkpoint.generationConfig(), { guidance: 3 });
    assert.deepEqual(JSON.parse(await readFile(checkpoint.tokenizerPath, 'utf8')), { version: '1.0' });
    const { config, tensors } = await checkpoint.component('vae');
    assert.deepEqual(config, { width: 3 });
    assert.deepEqual([...toFloat32(tensors.get('weight') ?? assert.fail())], [3, 4]);
    assert.equal(checkpoint.has('text_encoder'), false);
    await assert.rejects(checkpoint.component('text_encoder'), { code: 'CHECKPOINT_INVALID', message: /text_encoder/ });
  });

  it('hands floating weights over one by one', async () => {
    const source = await (await Checkpoint.open(model)).weights('transformer');
    const weights = floatWeights(source, 'transformer');
    assert.deepEqual([...weights.shapes], [['weight', [2]]]);
    assert.deepEqual([...weights.others], [['mask', 'U8 [1]']]);
    assert.deepEqual([...(await weights.read('weight'))], [1, 2]);
    await source.close();
  });

  it('reads shards', async () => {
    const folder = join(model, 'vae');
    await rename(join(folder, 'model.safetensors'), join(folder, 'model-00001.safetensors'));
    await writeSafetensors(
      join(folder, 'model-00002.safetensors'),
      new Map([['bias', fromFloat32(Float32Array.of(9), [1])]]),
    );
    const weight_map = { weight: 'model-00001.safetensors', bias: 'model-00002.safetensors' };
    await writeFile(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map }));
    const indexPath = join(model, 'model_index.json');
    const index = JSON.parse(await readFile(indexPath, 'utf8'));
    delete index.files['vae/model.safetensors'];
    const { bytes } = { bytes: (await readFile(join(folder, 'model.safetensors.index.json'))).length };
    index.files['vae/model.safetensors.index.json'] = { bytes, sha256: '0'.repeat(64) };
    await writeFile(indexPath, JSON.stringify(index));
    const checkpoint = await Checkpoint.open(model, { sizesOnly: true });
    const { tensors } = await checkpoint.component('vae');
    assert.deepEqual([...tensors.keys()], ['weight', 'bias']);
    await assert.rejects(Checkpoint.open(model), { code: 'CHECKPOINT_INVALID', message: /SHA-256/ });
  });

  it('replaces a checkpoint whole, and keeps it when the new one fails', async () => {
    await writeCheckpoint(model, { components: { vae: component(7) } });
    assert.deepEqual((await Checkpoint.open(model)).index.components, ['vae']);
    const broken: Component = {
      config: {},
      tensors: new Map([['x', { dtype: 'F32', shape: [2], data: new Uint8Array(1) }]]),
    };
    await assert.rejects(writeCheckpoint(model, { components: { vae: component(8), transformer: broken } }), {
      code: 'INVALID_SHAPE',
    });
    assert.deepEqual((await (await Checkpoint.open(model)).component('vae')).config, { width: 7 });
    assert.deepEqual(await readdir(dir), ['model']);
  });

  it('never replaces a folder that is no checkpoint', async () => {
    const home = join(dir, 'home');
    await mkdir(home);
    await writeCheckpoint(home, content);
    await rm(join(home, 'model_index.json'));
    await assert.rejects(writeCheckpoint(home, content), { code: 'INVALID_ARGUMENT', message: /home/ });
    await writeFile(join(dir, 'file'), '');
    await assert.rejects(writeCheckpoint(join(dir, 'file'), content), { code: 'INVALID_ARGUMENT' });
    await assert.rejects(writeCheckpoint(join(dir, 'file', 'below'), content), { code: 'IO_ERROR' });
  });

  it('what is missing is MODEL_NOT_FOUND with a cure', async () => {
    await assert.rejects(Checkpoint.open(join(dir, 'absent')), {
      code: 'MODEL_NOT_FOUND',
      message: /absent/,
      cure: /model_index/,
    });
    await assert.rejects(Checkpoint.open(dir), { code: 'MODEL_NOT_FOUND' });
    await rename(model, `${model}.previous`);
    await assert.rejects(Checkpoint.open(model), { code: 'MODEL_NOT_FOUND', cure: /rename .*previous/ });
  });

  it('missing, truncated and altered files are named', async () => {
    const weights = join(model, 'vae', 'model.safetensors');
    const refused = (message: RegExp) =>
      assert.rejects(Checkpoint.open(model), { code: 'CHECKPOINT_INVALID', message });
    const good = await readFile(weights);
    await truncate(weights, good.length - 1);
    await refused(/vae.model\.safetensors is truncated/);
    await writeFile(weights, good);
    await appendFile(weights, 'x');
    await refused(/vae.model\.safetensors is altered/);
    const flipped = Buffer.from(good);
    flipped[flipped.length - 1] ^= 1;
    await writeFile(weights, flipped);
    await refused(/SHA-256/);
    await rm(weights);
    await refused(/vae.model\.safetensors is missing/);
    await mkdir(weights);
    await refused(/is missing/);
  });

  it('foreign and malformed indexes are refused with their reason', async () => {
    const path = join(model, 'model_index.json');
    const index = JSON.parse(await readFile(path, 'utf8'));
    const record = { bytes: 1, sha256: '0'.repeat(64) };
    const cases: [unknown, RegExp][] = [
      ['{', /not JSON/],
      [[], /no JSON object/],
      [{ _class_name: 'FluxPipeline' }, /another program/],
      [{ ...index, format_version: 2 }, /format version 2/],
      [{ ...index, components: 'vae' }, /components/],
      [{ ...index, files: {} }, /files/],
      [{ ...index, files: { '../x': record } }, /files/],
      [{ ...index, files: { '/etc/passwd': record } }, /files/],
      [{ ...index, files: { 'a/../../x': record } }, /files/],
      [{ ...index, files: { 'README.md': { bytes: -1, sha256: '' } } }, /files/],
    ];
    for (const [value, message] of cases) {
      await writeFile(path, typeof value === 'string' ? value : JSON.stringify(value));
      await assert.rejects(Checkpoint.open(model), { code: 'CHECKPOINT_INVALID', message }, String(message));
    }
  });
});
