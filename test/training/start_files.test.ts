/** `train --init` from every form that weights come in: the first step is that of a start from their conversion, to the bit. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Checkpoint } from '../../lib/io/checkpoint.js';
import { writeSafetensors } from '../../lib/io/safetensors.js';
import { fromFloat32, type TensorData } from '../../lib/io/tensor_data.js';
import { convertCheckpoint } from '../../lib/pipeline/convert.js';
import type { PretrainedParts } from '../../lib/pipeline/official_parts.js';
import { openTraining, type TrainingKind } from '../../lib/training/index.js';
import { goldenPath, requireGolden } from '../support/goldens.js';
import { runSome, tokenizerConfig, transformerConfig, using } from '../support/tiny_training.js';
import { legacyTorchFile, legacyTorchState, pickled, torchState } from '../support/torch_file.js';

type Tensors = ReadonlyMap<string, TensorData>;
const below = (prefix: string, tensors: Tensors): Tensors =>
  new Map([...tensors].map(([name, t]) => [prefix + name, t]));

/** Names as the tokenizer's other spelling has them, with what the official files hold beside. */
function otherSpelling(tensors: Tensors): Tensors {
  const plain = [...tensors].map(([name, t]) => [name.replace(/\.(conv|norm)\.(weight|bias)$/, '.$2'), t] as const);
  const mask: TensorData = { dtype: 'I64', shape: [4], data: new Uint8Array(32) };
  const perceptual = fromFloat32(new Float32Array(6), [2, 3]);
  return new Map([...plain, ['quantize.lfq.mask', mask], ['perceptual_model.net.slice1.0.weight', perceptual]]);
}

describe('train --init', function () {
  this.timeout(60_000);
  let root: string;
  let runs = 0;
  /** The networks of our own checkpoints, and the directories. */
  let vae: Tensors;
  let transformer: Tensors;
  let tokenizer: string;
  let checkpoint: string;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-start-files-'));
    [tokenizer, checkpoint] = [join(root, 'tokenizer'), join(root, 'transformer')] as [string, string];
    await using(await openTraining('tokenizer', { config: { ...tokenizerConfig, seed: 71 } }), (t) =>
      t.export(tokenizer),
    );
    vae = (await (await Checkpoint.open(tokenizer)).component('vae')).tensors;
    const config = { ...transformerConfig, seed: 72 };
    await using(await openTraining('transformer', { config, tokenizer }), (t) => t.export(checkpoint));
    transformer = (await (await Checkpoint.open(checkpoint)).component('transformer')).tensors;
  });
  after(() => rm(root, { recursive: true, force: true }));

  /** Loss and gradient norm of the first step, all bits of them. */
  async function firstStep(kind: TrainingKind, init: string | undefined, config: object, vaeAt?: string) {
    const given = { ...(init === undefined ? {} : { init }), ...(kind === 'tokenizer' ? {} : { tokenizer: vaeAt }) };
    const training = await openTraining(kind, { config: { ...config, iterations: 1 }, ...given } as never);
    const [event] = await using(training, (t) => runSome(t, join(root, `run-${runs++}`)));
    return { loss: event!.loss, gradNorm: event!.gradNorm };
  }

  async function converted(parts: PretrainedParts): Promise<string> {
    const directory = join(root, `converted-${runs++}`);
    await convertCheckpoint(parts, directory);
    return directory;
  }

  /** Two shards with their index, in a folder of their own. */
  async function sharded(tensors: Tensors, kind: 'safetensors' | 'bin'): Promise<string> {
    const folder = join(root, `shards-${runs++}`);
    await mkdir(folder);
    const half = Math.ceil(tensors.size / 2);
    const weightMap: Record<string, string> = {};
    for (const [i, shard] of [[...tensors].slice(0, half), [...tensors].slice(half)].entries()) {
      const name = `model-0000${i + 1}-of-00002.${kind}`;
      if (kind === 'bin') await writeFile(join(folder, name), torchState(f32(new Map(shard))));
      else await writeSafetensors(join(folder, name), new Map(shard));
      for (const [tensor] of shard) weightMap[tensor] = name;
    }
    const index = kind === 'bin' ? 'pytorch_model.bin.index.json' : 'model.safetensors.index.json';
    await writeFile(join(folder, index), JSON.stringify({ weight_map: weightMap }));
    return folder;
  }

  /** As f32: what bf16 holds is kept. */
  function f32(tensors: Tensors): Tensors {
    const widen = ({ dtype, shape, data }: TensorData): TensorData => {
      if (dtype !== 'BF16') return { dtype, shape, data };
      const half = new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2);
      return { dtype: 'F32', shape, data: new Uint8Array(Uint32Array.from(half, (v) => v << 16).buffer) };
    };
    return new Map([...tensors].flatMap(([name, t]) => (t.dtype === 'I64' ? [] : [[name, widen(t)] as const])));
  }

  async function file(name: string, contents: Tensors | Buffer): Promise<string> {
    const path = join(root, name);
    if (Buffer.isBuffer(contents)) await writeFile(path, contents);
    else await writeSafetensors(path, contents);
    return path;
  }

  /** Every form of a network's weights, by what it is called in a failure; the steps of all are compared with one another. */
  const forms = async (tensors: Tensors, nested: string): Promise<[string, string][]> => [
    ['.safetensors', await file(`${nested}one.safetensors`, tensors)],
    ['.safetensors, nested', await file(`${nested}nested.safetensors`, below(nested, tensors))],
    ['.pth', await file(`${nested}one.pth`, torchState(f32(below(nested, tensors))))],
    ['.pth before PyTorch 1.6', await file(`${nested}old.pth`, legacyTorchState(f32(tensors)))],
    ['shards of safetensors', await sharded(tensors, 'safetensors')],
    ['shards of .bin', await sharded(f32(tensors), 'bin')],
  ];

  it('the tokenizer: from every form, also in the other spelling with masks beside', async () => {
    const config = { vae: { norm_groups: tokenizerConfig.autoencoder.norm_groups } };
    const expected = await firstStep('tokenizer', tokenizer, tokenizerConfig);
    assert.notDeepEqual(await firstStep('tokenizer', undefined, tokenizerConfig), expected);
    for (const [form, path] of await forms(vae, 'vae.')) {
      assert.deepEqual(await firstStep('tokenizer', path, tokenizerConfig), expected, form);
      if (!form.startsWith('.pth')) continue;
      const directory = await converted({ vae: path, config });
      assert.deepEqual(await firstStep('tokenizer', directory, tokenizerConfig), expected, `${form}, converted`);
    }
    const spelt = await file('spelt.safetensors', below('state_dict.', otherSpelling(vae)));
    assert.deepEqual(await firstStep('tokenizer', spelt, tokenizerConfig), expected);
    // A whole model holds a tokenizer too.
    assert.deepEqual(await firstStep('tokenizer', checkpoint, tokenizerConfig), expected);
  });

  it('the transformer: from every form', async () => {
    const alone = await file('alone.safetensors', transformer);
    const expected = await firstStep(
      'transformer',
      await converted({ transformer: alone }),
      transformerConfig,
      tokenizer,
    );
    assert.notDeepEqual(await firstStep('transformer', undefined, transformerConfig, tokenizer), expected);
    for (const [form, path] of await forms(transformer, 'trainer.gpt_fsdp.')) {
      assert.deepEqual(await firstStep('transformer', path, transformerConfig, tokenizer), expected, form);
      if (!form.startsWith('.pth')) continue;
      const directory = await converted({ transformer: path });
      assert.deepEqual(await firstStep('transformer', directory, transformerConfig, tokenizer), expected, form);
    }
  });

  it("the transformer: from the official code's files, in each of their containers", async function () {
    requireGolden(this, 'transformer/g_checkpoints/tiny_reg_bf16.pth');
    const eight = { ...tokenizerConfig, autoencoder: { ...tokenizerConfig.autoencoder, codebook_dim: 8 } };
    const bits = join(root, 'eight-bits');
    await using(await openTraining('tokenizer', { config: eight }), (t) => t.export(bits));
    const config = {
      ...transformerConfig,
      transformer: { embed_dim: 32, depth: 2, num_heads: 2, block_chunks: 2, text_maxlen: 6 },
    };
    const names = ['tiny_reg_bf16.pth', 'tiny_reg.pth', 'ar-ckpt-giter000K-ep0-iter3-last.pth'];
    const losses = new Map<string, number>();
    for (const name of [...names, 'sharded_safetensors', 'sharded_bin']) {
      const transformerAt = goldenPath(`transformer/g_checkpoints/${name}`);
      if (transformerAt === undefined) continue;
      const own = await firstStep('transformer', transformerAt, config, bits);
      const directory = await converted({ transformer: transformerAt });
      assert.deepEqual(await firstStep('transformer', directory, config, bits), own, name);
      losses.set(name, own.loss);
    }
    // The same weights in other containers; rounded to bf16 they are others.
    const [rounded, plain, training] = names.map((name) => losses.get(name));
    assert.equal(training, plain);
    assert.notEqual(rounded, plain);
    assert.equal(losses.get('sharded_bin'), losses.get('sharded_safetensors'));
  });

  it("the tokenizer: from BitVAE's files", async function () {
    const config = {
      ...tokenizerConfig,
      autoencoder: {
        ...{ codebook_dim: 16, base_ch: 24, num_res_blocks: 1, patch_size: 2 },
        ...{ encoder_ch_mult: [1, 1], decoder_ch_mult: [1, 1] },
      },
      schedule: '1 2 4 8',
    };
    const paths = ['tiny_vae', 'tiny_vae_altnames'].map((name) => requireGolden(this, `tokenizer/pth/${name}.pth`));
    const steps = await Promise.all(paths.map((path) => firstStep('tokenizer', path, config)));
    assert.deepEqual(steps[0], steps[1]);
    for (const path of paths)
      assert.deepEqual(await firstStep('tokenizer', await converted({ vae: path }), config), steps[0]);
  });

  describe('refuses', () => {
    const refuses = (kind: TrainingKind, init: string, config: object, expected: object): Promise<void> =>
      assert.rejects(openTraining(kind, { config, init, ...(kind === 'tokenizer' ? {} : { tokenizer }) }), expected);

    it('what is not there, and what is no weights', async () => {
      await refuses('tokenizer', join(root, 'none'), tokenizerConfig, { code: 'MODEL_NOT_FOUND', message: /none/ });
      const text = await file('text.pth', Buffer.from('hello'));
      await refuses('tokenizer', text, tokenizerConfig, { code: 'CHECKPOINT_INVALID', message: /text\.pth/ });
      const evil = await file('evil.pth', legacyTorchFile(pickled.call(pickled.global('os', 'system')), []));
      await refuses('transformer', evil, transformerConfig, { code: 'UNSAFE_PICKLE', message: /os\.system/ });
    });

    it('a run that was not exported, with the path to pass', async () => {
      const run = join(root, 'a-run');
      const training = await openTraining('tokenizer', { config: { ...tokenizerConfig, iterations: 1 } });
      const [event] = await using(training, (t) => runSome(t, run));
      for (const path of [run, event!.saved!])
        await refuses('tokenizer', path, tokenizerConfig, {
          code: 'INVALID_ARGUMENT',
          message: /of a run.*a-run.checkpoint/,
        });
    });

    it('weights of another network, by what they are', async () => {
      const [one, other] = [await file('t.safetensors', transformer), await file('v.safetensors', vae)];
      const code = 'CHECKPOINT_INVALID';
      await refuses('tokenizer', one, tokenizerConfig, { code, message: /the vae in .* found transformer/ });
      await refuses('transformer', other, transformerConfig, { code, message: /the transformer in .* found vae/ });
      await refuses('transformer', tokenizer, transformerConfig, { code, message: /Expected a transformer in/ });
      const directory = await converted({ transformer: one });
      await refuses('tokenizer', directory, tokenizerConfig, { code, message: /Expected a vae in/ });
    });

    it('another architecture and missing tensors, by option and tensor', async () => {
      const code = 'CHECKPOINT_CONFIG_MISMATCH';
      const holed = (tensors: Tensors, name: string): Tensors => new Map([...tensors].filter(([n]) => n !== name));
      const gone = [...transformer.keys()].find((name) => name.endsWith('ffn.fc2.bias'))!;
      const lacking = await file('holed.safetensors', holed(transformer, gone));
      await refuses('transformer', lacking, transformerConfig, { code, message: new RegExp(gone) });
      const vaeGone = 'encoder.conv_out.conv.bias';
      const lackingVae = await file('holed-vae.safetensors', holed(vae, vaeGone));
      await refuses('tokenizer', lackingVae, tokenizerConfig, { code, message: new RegExp(vaeGone) });
      const wide = { ...tokenizerConfig, autoencoder: { ...tokenizerConfig.autoencoder, base_ch: 16 } };
      await refuses('tokenizer', tokenizer, wide, { code, message: /base_ch/ });
    });

    it('options that no tensor tells, where the files tell them', async () => {
      const code = 'CHECKPOINT_CONFIG_MISMATCH';
      const grouped = { ...tokenizerConfig, autoencoder: { ...tokenizerConfig.autoencoder, norm_groups: 4 } };
      await refuses('tokenizer', tokenizer, grouped, { code, message: /'norm_groups' 2, .* is 4/ });
      const turned = { ...transformerConfig, transformer: { ...transformerConfig.transformer, norm_eps: 1e-5 } };
      await refuses('transformer', checkpoint, turned, { code, message: /'norm_eps'/ });
      // A bare file tells nothing: the configuration decides.
      await using(
        await openTraining('tokenizer', { config: grouped, init: await file('bare.safetensors', vae) }),
        async () => {},
      );
    });
  });
});
