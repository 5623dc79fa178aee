import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Device } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import { Checkpoint } from '../../lib/io/checkpoint.js';
import { openTraining, type StepEvent, type Training, type TrainingKind } from '../../lib/training/index.js';
import { optimizer, runSome, tokenizerConfig, transformerConfig, using } from '../support/tiny_training.js';

describe('training', () => {
  let root: string;
  let tokenizer: string;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-training-'));
    tokenizer = join(root, 'tokenizer-checkpoint');
    await using(await open('tokenizer'), (t) => t.export(tokenizer));
  });
  after(() => rm(root, { recursive: true, force: true }));

  const open = (kind: TrainingKind, change: object = {}): Promise<Training> =>
    openTraining(kind, {
      config: { ...(kind === 'tokenizer' ? tokenizerConfig : transformerConfig), ...change },
      ...(kind === 'transformer' ? { tokenizer } : {}),
    });

  const losses = (events: readonly StepEvent[]): number[] => events.map((e) => e.loss);

  for (const kind of ['tokenizer', 'transformer'] as const) {
    it(`${kind}: a run that was cut off and resumed equals an unbroken one, bit for bit`, async () => {
      const [whole, broken] = [join(root, `${kind}-whole`), join(root, `${kind}-broken`)];
      const unbroken = await using(await open(kind), (t) => runSome(t, whole));
      assert.equal(unbroken.length, 6);
      // Cut off one step after a save: that step is repeated.
      await using(await open(kind), (t) => runSome(t, broken, 3));
      const rest = await using(await open(kind), (t) => runSome(t, broken));
      assert.deepEqual(
        rest.map((e) => e.step),
        [3, 4, 5, 6],
      );
      assert.deepEqual(losses(rest), losses(unbroken.slice(2)));
    });
  }

  it('learns the first scales alone where the config says so', async () => {
    const first = async (change: object): Promise<StepEvent['metrics']> => {
      const directory = join(root, `scales-${Object.keys(change).length}`);
      return (await using(await open('transformer', change), (t) => runSome(t, directory, 1)))[0]!.metrics;
    };
    const [all, two] = [await first({}), await first({ always_training_scales: 2 })];
    // No scale sees a later one: what is computed of the first two does not depend on the third.
    const { accuracy, scale2, ...early } = all;
    assert.ok(accuracy !== undefined && scale2 !== undefined);
    const { accuracy: ofTwo, ...each } = two;
    assert.deepEqual(each, early);
    assert.equal(ofTwo, (each.scale0! + 4 * each.scale1!) / 5);
  });

  it('leaves no tensor behind', async () => {
    const live = Device.default().stats().liveTensors;
    for (const kind of ['tokenizer', 'transformer'] as const)
      await using(await open(kind), (t) => runSome(t, join(root, `${kind}-leak`), 2));
    assert.equal(Device.default().stats().liveTensors, live);
  });

  it('exports what it trained: a transformer goes on from its own checkpoint', async () => {
    const exported = join(root, 'exported');
    await using(await open('transformer'), (t) => t.export(exported));
    const checkpoint = await Checkpoint.open(exported);
    assert.deepEqual(await checkpoint.generationConfig(), transformerConfig.generation);
    assert.ok(checkpoint.has('vae') && checkpoint.has('text_encoder'));
    const more = await openTraining('transformer', { config: transformerConfig, tokenizer, init: exported });
    const [first] = await using(more, (t) => runSome(t, join(root, 'more'), 1));
    // bf16 weights of the same start give the same loss up to their rounding.
    const fresh = await using(await open('transformer'), (t) => runSome(t, join(root, 'fresh'), 1));
    assert.ok(Math.abs(first!.loss - fresh[0]!.loss) < 0.01);
  });

  it('an abort saves the state of the last step and rejects with its reason', async () => {
    const directory = join(root, 'aborted');
    const controller = new AbortController();
    const reason = new Error('enough');
    await using(await open('tokenizer', { save_every: 100 }), async (t) => {
      await assert.rejects(async () => {
        for await (const event of t.run({ directory, signal: controller.signal }))
          if (event.step === 3) controller.abort(reason);
      }, reason);
    });
    assert.deepEqual((await readdir(directory)).sort(), ['log.jsonl', 'state-00000003.safetensors']);
  });

  it('refuses to resume with another tokenizer; defaults of generation may change', async () => {
    const directory = join(root, 'other-tokenizer');
    const other = join(root, 'another-tokenizer');
    await using(await open('tokenizer', { seed: 4 }), (t) => t.export(other));
    await using(await open('transformer'), (t) => runSome(t, directory, 2));
    const config = { ...transformerConfig, generation: { guidance: 4 } };
    await using(await openTraining('transformer', { config, tokenizer: other }), (t) =>
      assert.rejects(
        runSome(t, directory),
        (e: unknown) =>
          e instanceof InfinityError && e.code === 'CHECKPOINT_CONFIG_MISMATCH' && e.fields.field === 'tokenizer',
      ),
    );
    const events = await using(await openTraining('transformer', { config, tokenizer }), (t) =>
      runSome(t, directory, 3),
    );
    assert.equal(events[0]!.step, 3);
  });

  it('falls back to the state before a damaged one', async () => {
    const directory = join(root, 'damaged');
    await using(await open('tokenizer'), (t) => runSome(t, directory, 4));
    await truncate(join(directory, 'state-00000004.safetensors'), 1000);
    const events = await using(await open('tokenizer'), (t) => runSome(t, directory, 3));
    assert.equal(events[0]!.step, 3);
  });

  it('stops at a loss that is not finite and names the last good state', async () => {
    const directory = join(root, 'diverged');
    const wild = { optimizer: { ...optimizer, lr: 1e30, warmup_iterations: 0, clip: 1e30 } };
    await using(await open('tokenizer', wild), (t) =>
      assert.rejects(runSome(t, directory), (e: unknown) => {
        assert.ok(e instanceof InfinityError && e.code === 'NUMERICAL', String(e));
        const { step, tensor, lastGood } = e.fields;
        assert.ok(Number(step) > 1 && typeof tensor === 'string', e.message);
        assert.ok(e.message.includes(`step ${step}`) && e.message.includes(tensor), e.message);
        assert.ok(lastGood === undefined || e.message.includes(String(lastGood)));
        return true;
      }),
    );
  });

  it('refuses to resume with another configuration, and names the field', async () => {
    const directory = join(root, 'changed');
    await using(await open('tokenizer'), (t) => runSome(t, directory, 2));
    await using(await open('tokenizer', { batch_size: 4 }), (t) =>
      assert.rejects(
        runSome(t, directory),
        (e: unknown) =>
          e instanceof InfinityError && e.code === 'CHECKPOINT_CONFIG_MISMATCH' && e.fields.field === 'batch_size',
      ),
    );
  });

  it('refuses a config whose fields are missing, unknown or out of range, naming them', async () => {
    const wrong: [TrainingKind, object, RegExp][] = [
      ['tokenizer', { batch_size: 0 }, /batch_size/],
      ['tokenizer', { optimizer: { ...optimizer, lr: Number.NaN } }, /optimizer\.lr/],
      ['tokenizer', { optimizer: { ...optimizer, betas: [0.9] } }, /optimizer\.betas/],
      ['tokenizer', { optimizer: { ...optimizer, lr_schedule: 'cosine' } }, /optimizer\.lr_schedule/],
      ['tokenizer', { optimizer: { ...optimizer, weight_decy: 0.1 } }, /optimizer\.weight_decy/],
      ['tokenizer', { loss: undefined }, /loss\.l1/],
      ['tokenizer', { schedule: '1 2 four' }, /schedule/],
      ['tokenizer', { schedule: '1 2 8' }, /dataset\.size/],
      ['tokenizer', { scale_dropout: 1.5 }, /scale_dropout/],
      ['tokenizer', { autoencoder: { ...tokenizerConfig.autoencoder, patch_size: 3 } }, /'autoencoder'.*patch_size/],
      ['transformer', { text_encoder: { d_model: 128 } }, /'text_encoder'.*d_kv/],
      ['tokenizer', { text_dropout: 0.1 }, /text_dropout/],
      ['transformer', { reweight: 1 }, /reweight/],
      ['transformer', { always_training_scales: 1 }, /always_training_scales/],
      ['transformer', { self_correction: { layers: 3, strength: 3, requant: true } }, /self_correction\.strength/],
      ['transformer', { transformer: { ...transformerConfig.transformer, dept: 3 } }, /transformer\.dept/],
      ['transformer', { transformer: { ...transformerConfig.transformer, vae_embed_dim: 8 } }, /vae_embed_dim/],
      ['transformer', { dataset: { kind: 'shapes', seed: 5, size: 32 } }, /dataset\.size/],
    ];
    for (const [kind, change, field] of wrong)
      await assert.rejects(open(kind, change), (e: unknown) => {
        assert.ok(e instanceof InfinityError && e.code === 'INVALID_ARGUMENT' && e.cure !== undefined, String(e));
        assert.match(e.message, field);
        return true;
      });
  });
});
