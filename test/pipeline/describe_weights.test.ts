import assert from 'node:assert/strict';
import { dirname } from 'node:path';
import { describeWeights } from '../../lib/pipeline/describe_checkpoint.js';
import { officialParts } from '../../lib/pipeline/official_parts.js';
import { generationConfig, PRESETS, presetOf } from '../../lib/pipeline/presets.js';
import { officialInfinityConfig } from '../../lib/transformer/config.js';
import { chooseState, findStates } from '../../lib/weights/find_states.js';
import { requireGolden } from '../support/goldens.js';
import { type OfficialFiles, officialFiles, TEXT, TRANSFORMER, VAE } from '../support/official_files.js';

describe('state dicts in a file', () => {
  const T = 'cfg_uncond';
  const V = 'decoder.conv_in.conv.weight';
  it('are found in every official nesting, behind wrappers and under old names', () => {
    const at = (names: string[]) => findStates(names).map(({ network, prefix, ema }) => [network, prefix, ema]);
    assert.deepEqual(at([T]), [['transformer', '', false]]);
    assert.deepEqual(at([`module.${T}`, `_orig_mod.${T}`]), [
      ['transformer', 'module.', false],
      ['transformer', '', false],
    ]);
    const nested = ['gpt_fsdp', 'gpt_ema_fsdp', 'gpt_wo_ddp'].map((key) => `trainer.${key}.${T}`);
    assert.deepEqual(at([...nested, `trainer.vae_local.${V}`, `trainer.gpt_fsdp_opt.state.${T}.exp_avg`]), [
      ['transformer', 'trainer.gpt_fsdp.', false],
      ['transformer', 'trainer.gpt_ema_fsdp.', true],
      ['transformer', 'trainer.gpt_wo_ddp.', false],
      ['vae', 'trainer.vae_local.', false],
    ]);
    assert.deepEqual(at([`vae.${V}`, `ema.${V}`, 'state_dict.decoder.conv_in.weight', 'demanding.x']), [
      ['vae', 'vae.', false],
      ['vae', 'ema.', true],
      ['vae', 'state_dict.', false],
    ]);
  });

  it('are chosen: trained ones unless averaged ones are asked for, or there is nothing else', () => {
    const both = findStates([`ema.${V}`, `vae.${V}`]);
    assert.equal(chooseState(both, 'vae', false, 'f').prefix, 'vae.');
    assert.equal(chooseState(both, 'vae', true, 'f').prefix, 'ema.');
    assert.equal(chooseState(findStates([`ema.${V}`]), 'vae', false, 'f').prefix, 'ema.');
    assert.equal(chooseState(both, 'vae', 'preferred', 'f').prefix, 'ema.');
    assert.equal(chooseState(findStates([V]), 'vae', 'preferred', 'f').prefix, '');
    assert.throws(() => chooseState(findStates([V]), 'vae', true, 'f.pth'), { message: /averaged .* f\.pth/ });
    assert.throws(() => chooseState([], 'vae', false, 'f.pth'), { message: /no network of this family/ });
  });
});

describe('description of weights', () => {
  let files: OfficialFiles;
  before(async () => {
    files = await officialFiles();
  });
  after(() => files?.remove());

  it('tells networks, places, configurations, parameters, types, bytes, and what belongs to nothing', async () => {
    const { networks, other, tensors, bytes, file } = await describeWeights(files.training);
    assert.equal(file, 'ar-ckpt.safetensors');
    assert.deepEqual(
      networks.map(({ network, at, ema }) => [network, at, ema]),
      [
        ['transformer', 'trainer.gpt_ema_fsdp', true],
        ['transformer', 'trainer.gpt_fsdp', false],
        ['vae', 'trainer.vae_local', false],
      ],
    );
    const [averaged, trained, vae] = networks;
    assert.deepEqual(trained!.config, TRANSFORMER);
    assert.deepEqual(vae!.config, VAE);
    assert.equal(trained!.parameters, averaged!.parameters);
    // Three buffers of the key's bias a block, one of the pooling.
    assert.equal(trained!.elements, trained!.parameters + (2 * 2 + 1) * TRANSFORMER.embed_dim);
    assert.deepEqual(trained!.dtypes, { F32: trained!.elements });
    assert.deepEqual([other.tensors, other.elements], [1, 16 * 128]);
    assert.equal(tensors, networks.reduce((sum, n) => sum + n.tensors, 0) + 1);
    assert.equal(bytes, networks.reduce((sum, n) => sum + n.bytes, 0) + other.bytes);
  });

  it('lists what is not used, reads folders, and names what does not fit', async () => {
    const [vae] = (await describeWeights(files.vae)).networks;
    assert.deepEqual([...vae!.unused].sort(), [
      'perceptual_model.net.slice1.0.weight',
      'quantize.lfq.mask',
      'quantizer.lfq.mask',
    ]);
    const [text] = (await describeWeights(files.textEncoder)).networks;
    assert.deepEqual([text!.network, text!.config], ['text_encoder', TEXT]);
    assert.equal(text!.unused.length, 2);
    await assert.rejects(describeWeights(files.folder), { code: 'MODEL_NOT_FOUND', message: /Name the file/ });
  });

  it('takes what a training checkpoint remembers of its arguments, in a .pth file', async function () {
    this.timeout(20_000);
    const folder = dirname(requireGolden(this, 'transformer/g_checkpoints/expected.json'));
    const path = requireGolden(this, 'transformer/g_checkpoints/ar-ckpt-giter000K-ep0-iter3-last.pth');
    const { networks } = await describeWeights(path);
    assert.deepEqual(
      networks.map(({ at }) => at),
      ['trainer.gpt_fsdp', 'trainer.gpt_ema_fsdp'],
    );
    const { generation, transformer } = await officialParts({ transformer: path });
    assert.deepEqual(generation, { size: [256, 256] });
    assert.equal(transformer!.config.depth, 2);
    for (const shards of ['sharded_safetensors', 'sharded_bin']) {
      const { networks: found, dtypes } = await describeWeights(`${folder}/${shards}`);
      assert.deepEqual(found[0]!.config, networks[0]!.config);
      assert.deepEqual(Object.keys(dtypes).sort(), ['BF16', 'F32']);
    }
  });
});

describe('settings of the released models', () => {
  it('are those of the demos, found by the shape of the transformer and by the name of the small 8B', () => {
    const of = (size: Parameters<typeof officialInfinityConfig>[0], vae_embed_dim: number, path = '') =>
      presetOf(officialInfinityConfig(size, { vae_embed_dim, apply_spatial_patchify: vae_embed_dim === 14 }), path);
    assert.equal(of('infinity_2b', 32), 'infinity-2b');
    assert.equal(of('infinity_8b', 14, 'weights/infinity_8b_weights'), 'infinity-8b');
    assert.equal(of('infinity_8b', 14, 'weights/infinity_8b_512x512_weights'), 'infinity-8b-512');
    assert.equal(of('infinity_layer12', 16), 'infinity-125m');
    assert.equal(of('infinity_2b', 16), undefined);
    assert.equal(of('infinity_layer24', 32), undefined);
    assert.equal(presetOf(TRANSFORMER, ''), undefined);
    const settings = Object.fromEntries(
      (Object.keys(PRESETS) as (keyof typeof PRESETS)[]).map((name) => [name, generationConfig(name, 16)]),
    );
    const sampler = { top_k: 900, top_p: 0.97 };
    assert.deepEqual(settings, {
      'infinity-2b': { guidance: 3, tau: 0.5, ...sampler, size: [1024, 1024] },
      'infinity-8b': { guidance: 3, tau: 1, ...sampler, size: [1024, 1024] },
      'infinity-8b-512': { guidance: 3, tau: 1, ...sampler, size: [512, 512] },
      'infinity-125m': { guidance: 4, tau: 1, ...sampler, size: [256, 256] },
    });
  });
});
