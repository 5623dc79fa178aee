import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Device } from '../../lib/device.js';
import { Checkpoint } from '../../lib/io/checkpoint.js';
import { writeSafetensors } from '../../lib/io/safetensors.js';
import { type TensorData, toFloat32 } from '../../lib/io/tensor_data.js';
import { openTraining, type StepEvent } from '../../lib/training/index.js';
import { openStart } from '../../lib/training/start.js';
import { TokenizerTrainer } from '../../lib/training/tokenizer_trainer.js';
import { TransformerTrainer } from '../../lib/training/transformer_trainer.js';
import { runSome, tokenizerConfig, transformerConfig, using } from '../support/tiny_training.js';

describe('starting a training from what is there', () => {
  let root: string;
  let tokenizer: string;
  let wider: string;
  let checkpoint: string;
  let weights: string;
  let given: ReadonlyMap<string, TensorData>;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-start-'));
    [tokenizer, wider, checkpoint] = ['tokenizer', 'wider', 'checkpoint'].map((name) => join(root, name)) as [
      string,
      string,
      string,
    ];
    await using(await openTraining('tokenizer', { config: tokenizerConfig }), (t) => t.export(tokenizer));
    const autoencoder = { ...tokenizerConfig.autoencoder, codebook_dim: 6 };
    const six = { ...tokenizerConfig, autoencoder };
    await using(await openTraining('tokenizer', { config: six }), (t) => t.export(wider));
    const config = { ...transformerConfig, seed: 77 };
    await using(await openTraining('transformer', { config, tokenizer }), (t) => t.export(checkpoint));
    given = (await (await Checkpoint.open(checkpoint)).component('transformer')).tensors;
    // As the official trainer nests it, with the state of an optimizer beside.
    weights = join(root, 'infinity.safetensors');
    const nested = [...given].map(([name, t]) => [`trainer.gpt_fsdp.${name}`, t] as const);
    await writeSafetensors(weights, new Map([...nested, ['optimizer.step', given.get('pos_start')!]]), {});
  });
  after(() => rm(root, { recursive: true, force: true }));

  /** The weights that a training starts with, and what it could not use. */
  async function startOf(change: object, init: string, vae = tokenizer) {
    const trainer = await TransformerTrainer.create(
      { ...transformerConfig, ...change },
      { device: Device.default(), tokenizer: await Checkpoint.open(vae), init: await openStart(init, 'transformer') },
    );
    try {
      const values = new Map<string, Float32Array>();
      for (const [name, t] of trainer.weights()) values.set(name, Float32Array.from(await t.readFloats()));
      return { values, notices: trainer.notices };
    } finally {
      trainer.dispose();
    }
  }

  /** Those of the start, in its order, that the training does not start with. */
  const changed = (values: ReadonlyMap<string, Float32Array>): string[] =>
    [...given].flatMap(([name, t]) => {
      const own = values.get(name);
      return own === undefined || Buffer.from(own.buffer).equals(Buffer.from(toFloat32(t).buffer)) ? [] : [name];
    });

  it('official weights of the transformer: all are taken, the text encoder starts anew and it is said', async () => {
    const { values, notices } = await startOf({}, weights);
    assert.deepEqual(changed(values), []);
    assert.equal(notices.length, 1);
    assert.match(notices[0]!, /text encoder starts anew/);
    assert.deepEqual((await startOf({}, checkpoint)).notices, []);
  });

  it('another tokenizer: what sees bits starts anew, each tensor is named, all else is taken', async () => {
    for (const init of [weights, checkpoint]) {
      const { values, notices } = await startOf({}, init, wider);
      const dropped = ['head.bias', 'head.weight', 'word_embed.weight'];
      assert.deepEqual(changed(values).sort(), dropped);
      for (const name of dropped)
        assert.ok(
          notices.some((line) => line.startsWith(`"${name}" [`)),
          name,
        );
      assert.match(notices.find((line) => line.includes('word_embed'))!, /\[16, 6\] starts anew.*\[16, 4\]/);
      assert.equal(notices.filter((line) => line.startsWith('"')).length, 3);
    }
  });

  it('another head likewise; another depth is refused', async () => {
    const softmax = { ...transformerConfig.transformer, head: 'softmax' };
    assert.deepEqual(changed((await startOf({ transformer: softmax }, weights)).values).sort(), [
      'head.bias',
      'head.weight',
    ]);
    const deep = { ...transformerConfig.transformer, depth: 3 };
    await assert.rejects(startOf({ transformer: deep }, weights), {
      code: 'CHECKPOINT_CONFIG_MISMATCH',
      message: /depth/,
    });
  });

  it('another width of texts: the whole text side starts anew, the text encoder too', async () => {
    const text = { ...transformerConfig.text_encoder, d_model: 256 };
    const { values, notices } = await startOf({ text_encoder: text }, checkpoint);
    const names = changed(values);
    assert.ok(names.includes('cfg_uncond') && notices.some((line) => line.includes('"text_norm.weight"')));
    assert.ok(
      names.every((name) => /^(cfg_uncond|text_)/.test(name)),
      `${names}`,
    );
    assert.ok(names.every((name) => notices.some((line) => line.startsWith(`"${name}" `))));
    assert.match(notices.at(-1)!, /text encoder starts anew/);
  });

  it('a frozen text encoder is not trained, travels as it is, and a run goes on with it alone', async () => {
    const config = { ...transformerConfig, text_encoder: 'frozen', iterations: 3, save_every: 1 };
    const open = (init?: string) => openTraining('transformer', { config, tokenizer, ...(init ? { init } : {}) });
    const run = async (directory: string, stop?: number): Promise<StepEvent[]> =>
      using(await open(checkpoint), (t) => runSome(t, join(root, directory), stop));
    const whole = await run('frozen');
    await run('frozen-cut', 2);
    const rest = await run('frozen-cut');
    assert.deepEqual(
      rest.map((e) => e.loss),
      whole.slice(2).map((e) => e.loss),
    );
    const { values } = await startOf({ text_encoder: 'frozen' }, checkpoint);
    assert.ok([...values.keys()].every((name) => !name.startsWith('text_encoder.')));
    const exported = join(root, 'frozen-export');
    await using(await open(checkpoint), async (t) => {
      await runSome(t, join(root, 'frozen'));
      await t.export(exported);
    });
    for (const file of ['text_encoder/model.safetensors', 'text_encoder/config.json', 'tokenizer/tokenizer.json']) {
      const [a, b] = await Promise.all([checkpoint, exported].map((d) => readFile(join(d, file))));
      assert.ok(file.endsWith('.json') ? a!.length === b!.length : a!.equals(b!), file);
    }
    const unlike = [...(await (await Checkpoint.open(exported)).component('transformer')).tensors].filter(
      ([name, t]) => !Buffer.from(t.data).equals(Buffer.from(given.get(name)!.data)),
    );
    assert.ok(unlike.length > 10, 'the transformer was trained');
    await assert.rejects(open(), { code: 'INVALID_ARGUMENT', message: /text_encoder/ });
    await assert.rejects(open(weights), { code: 'INVALID_ARGUMENT', message: /text_encoder/ });
  });

  it('the tokenizer starts from official weights too', async () => {
    const vae = (await (await Checkpoint.open(tokenizer)).component('vae')).tensors;
    const file = join(root, 'vae.safetensors');
    await writeSafetensors(file, new Map([...vae].map(([name, t]) => [`vae.${name}`, t] as const)), {});
    const trainer = await TokenizerTrainer.create(tokenizerConfig, {
      device: Device.default(),
      init: await openStart(file, 'vae'),
    });
    try {
      for (const [name, t] of trainer.weights())
        assert.deepEqual(Float32Array.from(await t.readFloats()), toFloat32(vae.get(name)!), name);
    } finally {
      trainer.dispose();
    }
    await assert.rejects(openTraining('tokenizer', { config: tokenizerConfig, init: weights }), {
      code: 'CHECKPOINT_INVALID',
    });
  });
});
