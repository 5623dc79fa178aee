import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Device } from '../../lib/device.js';
import { Checkpoint } from '../../lib/io/checkpoint.js';
import { readSafetensors } from '../../lib/io/safetensors.js';
import { fromFloat32, toFloat32 } from '../../lib/io/tensor_data.js';
import { type ConvertOptions, type ConvertProgress, convertCheckpoint } from '../../lib/pipeline/convert.js';
import type { PretrainedParts } from '../../lib/pipeline/official_parts.js';
import { InfinityPipeline } from '../../lib/pipeline/pipeline.js';
import { parseInfinityConfig } from '../../lib/transformer/config.js';
import { requireGolden } from '../support/goldens.js';
import { type OfficialFiles, officialFiles, TRANSFORMER, VAE } from '../support/official_files.js';

describe('conversion', function () {
  this.timeout(60_000);
  let files: OfficialFiles;
  let out: (name: string) => string;
  before(async () => {
    files = await officialFiles();
    out = (name) => join(files.folder, name);
  });
  after(() => files?.remove());

  async function draw(source: string | PretrainedParts): Promise<Uint8Array> {
    await using pipe = await InfinityPipeline.fromPretrained(source);
    const { images } = await pipe.generate('a star', { size: [32, 32], seed: 5, guidance: 2 });
    return images[0]!.data;
  }
  const parts = (): PretrainedParts => ({ transformer: files.training, textEncoder: files.textEncoder });

  it('writes a directory that draws what the files draw, bit for bit, and tells of every byte', async () => {
    const { liveTensors } = Device.default().stats();
    const progress: ConvertProgress[] = [];
    await convertCheckpoint(parts(), out('whole'), { onProgress: (event) => progress.push(event) });
    assert.equal(Device.default().stats().liveTensors, liveTensors);
    const checkpoint = await Checkpoint.open(out('whole'));
    assert.deepEqual(checkpoint.index.components, ['transformer', 'vae', 'text_encoder', 'tokenizer']);
    assert.deepEqual(parseInfinityConfig(await checkpoint.config('transformer')), TRANSFORMER);
    assert.deepEqual(await checkpoint.config('vae'), VAE);
    const last = progress.at(-1)!;
    assert.equal(last.bytes, last.ofBytes);
    assert.equal(new Set(progress.map(({ component }) => component)).size, 3);
    assert.deepEqual(await draw(out('whole')), await draw(parts()));
  });

  it('takes parts one by one, by any spelling, and puts directories together', async () => {
    await convertCheckpoint({ vae: files.vaeAlternative }, out('vae'));
    await convertCheckpoint({ transformer: files.transformer }, out('transformer'));
    await convertCheckpoint({ textEncoder: files.textEncoder }, out('text'));
    const names = [...(await readSafetensors(out('vae/vae/model.safetensors'))).keys()];
    assert.ok(names.includes('encoder.conv_in.conv.weight') && !names.some((name) => name.startsWith('quant')));
    const text = [...(await readSafetensors(out('text/text_encoder/model.safetensors'))).keys()];
    assert.ok(text.includes('shared.weight') && !text.some((name) => /^(decoder|lm_head)/.test(name)));
    const together = { transformer: out('transformer'), vae: out('vae'), textEncoder: out('text') };
    const official = { transformer: files.transformer, vae: files.vae, textEncoder: files.textEncoder };
    assert.deepEqual(await draw(together), await draw(official));
    await convertCheckpoint(together, out('together'));
    assert.deepEqual(await draw(out('together')), await draw(official));
  });

  it('keeps types, or stores weights in another', async () => {
    const typesOf = async (source: string | PretrainedParts, dtype: ConvertOptions['dtype']) => {
      await convertCheckpoint(source, out(`as-${dtype}`), { dtype });
      const tensors = await readSafetensors(out(`as-${dtype}/transformer/model.safetensors`));
      return { types: [...new Set([...tensors.values()].map((td) => td.dtype))], tensors };
    };
    const kept = await typesOf({ transformer: files.transformer }, 'keep');
    assert.deepEqual(kept.types, ['BF16']);
    const wide = await typesOf({ transformer: files.transformer }, 'f32');
    assert.deepEqual(wide.types, ['F32']);
    for (const [name, td] of wide.tensors) assert.deepEqual(toFloat32(td), toFloat32(kept.tensors.get(name)!));
    const narrow = await typesOf(out('as-f32'), 'bf16');
    assert.deepEqual(narrow.types, ['BF16']);
    for (const [name, td] of narrow.tensors) assert.deepEqual(td.data, kept.tensors.get(name)!.data, name);
  });

  it('takes averaged weights when asked', async () => {
    await convertCheckpoint({ transformer: files.training, ema: true }, out('ema'));
    const [averaged, source] = [
      await readSafetensors(out('ema/transformer/model.safetensors')),
      await readSafetensors(files.training),
    ];
    for (const [name, td] of averaged)
      assert.deepEqual(td.data, source.get(`trainer.gpt_ema_fsdp.${name}`)!.data, name);
  });

  it('reads the official containers: views, mixed types, training checkpoints, shards', async function () {
    const golden = 'transformer/g_checkpoints';
    const stored = await readSafetensors(requireGolden(this, `${golden}/expected.safetensors`));
    for (const name of ['tiny_reg.pth', 'ar-ckpt-giter000K-ep0-iter3-last.pth', 'sharded_bin']) {
      await convertCheckpoint({ transformer: requireGolden(this, `${golden}/${name}`) }, out('official'), {
        dtype: 'f32',
      });
      const written = await readSafetensors(out('official/transformer/model.safetensors'));
      const weights = [...stored].filter(([tensor]) => tensor.startsWith('weight.'));
      assert.equal(written.size, weights.length);
      for (const [tensor, td] of weights) {
        const bf16 = name === 'sharded_bin' && tensor.startsWith('weight.block_chunks.');
        const want = bf16 ? fromFloat32(toFloat32(td), td.shape, 'BF16') : td;
        assert.deepEqual(toFloat32(written.get(tensor.slice(7))!), toFloat32(want), `${name} ${tensor}`);
      }
    }
    for (const name of ['tiny_vae', 'tiny_vae_tricky', 'tiny_vae_altnames']) {
      await convertCheckpoint({ vae: requireGolden(this, `tokenizer/pth/${name}.pth`) }, out('tokenizer'), {
        dtype: 'f32',
      });
      const written = await readSafetensors(out('tokenizer/vae/model.safetensors'));
      const expected = name === 'tiny_vae_tricky' ? name : 'tiny_vae';
      const want = await readSafetensors(requireGolden(this, `tokenizer/pth/${expected}.expected.safetensors`));
      for (const [tensor, td] of written)
        assert.deepEqual(toFloat32(td), toFloat32(want.get(tensor)!), `${name} ${tensor}`);
      assert.equal([...want.keys()].filter((tensor) => /^(en|de)coder/.test(tensor)).length, written.size);
    }
  });

  it('leaves nothing behind when it is aborted or refused', async () => {
    const controller = new AbortController();
    const reason = new Error('enough');
    const before = await readdir(files.folder);
    const aborted = convertCheckpoint(parts(), out('aborted'), {
      signal: controller.signal,
      onProgress: () => controller.abort(reason),
    });
    await assert.rejects(aborted, reason);
    await assert.rejects(convertCheckpoint(parts(), out('late'), { signal: AbortSignal.abort(reason) }), reason);
    const mismatch = { ...parts(), config: { transformer: { depth: 4 } } };
    await assert.rejects(convertCheckpoint(mismatch, out('wrong')), { code: 'CHECKPOINT_CONFIG_MISMATCH' });
    const rows = { ...parts(), config: { transformer: { text_maxlen: 4 } } };
    await assert.rejects(convertCheckpoint(rows, out('rows')), { code: 'INVALID_ARGUMENT', message: /cfg_uncond/ });
    const dtype = 'f16' as unknown as 'f32';
    await assert.rejects(convertCheckpoint(parts(), out('f16'), { dtype }), { code: 'INVALID_ARGUMENT', value: 'f16' });
    await assert.rejects(convertCheckpoint(parts(), files.textEncoder), { code: 'INVALID_ARGUMENT' });
    assert.deepEqual(await readdir(files.folder), before);
  });
});
