/** The published recipe of the tokenizer, its parts switched on one by one. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { Device } from '../../lib/device.js';
import { InfinityError } from '../../lib/errors.js';
import { Checkpoint } from '../../lib/io/checkpoint.js';
import { fromFloat32 } from '../../lib/io/tensor_data.js';
import { floatWeights } from '../../lib/io/weights.js';
import { uniformDraw } from '../../lib/philox.js';
import { scope, Tensor } from '../../lib/tensor.js';
import { Autoencoder } from '../../lib/tokenizer/autoencoder.js';
import { MultiScaleQuantizer } from '../../lib/tokenizer/quantizer.js';
import { parseGrids } from '../../lib/tokenizer/schedule.js';
import { openTraining, type StepEvent, TokenizerTrainer, type Training } from '../../lib/training/index.js';
import { restoreLfq } from '../../lib/training/lfq_checkpoint.js';
import { loadRunState } from '../../lib/training/run_state.js';
import { smallVgg } from '../support/small_vgg.js';
import { optimizer, runSome, tokenizerConfig, using } from '../support/tiny_training.js';
import { legacyTorchState } from '../support/torch_file.js';

const open = (change: object): Promise<Training> =>
  openTraining('tokenizer', { config: { ...tokenizerConfig, ...change } });
const bits = (codebook_dim: number) => ({ autoencoder: { ...tokenizerConfig.autoencoder, codebook_dim } });
const uniform = (shape: readonly number[], seed: number): Tensor =>
  Tensor.from(
    Array.from(
      { length: shape.reduce((a, b) => a * b) },
      (_, element) => 2 * uniformDraw(seed, { element, stream: 0 }) - 1,
    ),
    shape,
    'f32',
  );

describe('the tokenizer recipe', function () {
  // Every run starts a thread that compiles the sources first.
  this.timeout(60_000);
  let root: string;
  /** A folder with one picture that is its own mirror image: every step sees the same. */
  let dataset: object;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-recipe-'));
    const path = join(root, 'picture');
    await mkdir(path);
    const rows = Uint8Array.from({ length: 16 * 16 * 3 }, (_, i) => [16, 4, 9][i % 3]! * Math.floor(i / 48));
    await sharp(rows, { raw: { width: 16, height: 16, channels: 3 } }).toFile(join(path, '0.png'));
    dataset = { kind: 'folder', path, seed: 1, size: 16 };
  });
  after(() => rm(root, { recursive: true, force: true }));

  /** A run of six steps, and the same one cut off after an odd step and resumed. */
  async function resumes(name: string, change: object): Promise<StepEvent[]> {
    const unbroken = await using(await open(change), (t) => runSome(t, join(root, `${name}-whole`)));
    await using(await open(change), (t) => runSome(t, join(root, name), 3));
    const rest = await using(await open(change), (t) => runSome(t, join(root, name)));
    const numbers = (events: readonly StepEvent[]) =>
      events.map(({ step, loss, gradNorm, metrics }) => ({ step, loss, gradNorm, metrics }));
    assert.deepEqual(numbers(rest), numbers(unbroken.slice(2)));
    return unbroken;
  }

  const kinds = [4, 14, 16, 18, 32, 64].map((d) => ['bsq', d] as const);
  for (const [quantizer, d] of [...kinds, ['lfq', 4] as const, ['lfq', 14] as const]) {
    it(`${quantizer} with ${d} bits learns`, async () => {
      const short = { dataset, iterations: 24, save_every: 24, scale_dropout: 0, batch_size: 1 };
      const config = { ...bits(d), ...short, quantizer, optimizer: { ...optimizer, lr: 0.01 } };
      const events = await using(await open(config), (t) => runSome(t, join(root, `${quantizer}-${d}`)));
      const level = (part: readonly StepEvent[]): number =>
        part.reduce((sum, e) => sum + e.metrics.l1!, 0) / part.length;
      assert.ok(level(events.slice(-6)) < 0.8 * level(events.slice(0, 6)), events.map((e) => e.metrics.l1).join(' '));
    });
  }

  it('refuses lfq above 16 bits: its entropies go through every code', async () => {
    await assert.rejects(
      open({ ...bits(18), quantizer: 'lfq' }),
      (e: unknown) =>
        e instanceof InfinityError &&
        e.code === 'INVALID_ARGUMENT' &&
        /16 bits.*autoencoder\.codebook_dim/.test(e.message),
    );
  });

  it('lfq codes are those of bsq on features divided by √d', async () => {
    const schedule = parseGrids('1 2 3 4');
    using lfq = new MultiScaleQuantizer({ codebookDim: 16, kind: 'lfq' });
    using bsq = new MultiScaleQuantizer({ codebookDim: 16 });
    using features = uniform([2, 4, 4, 16], 1);
    // Powers of two scale without rounding.
    using smaller = Tensor.from(
      Float32Array.from(await features.readFloats(), (v) => v / 4),
      features.shape,
      'f32',
    );
    const read = async (q: MultiScaleQuantizer, x: Tensor): Promise<number[][]> => {
      const { bits: labels, quantized } = q.quantize(x, schedule);
      const values = await Promise.all([...labels, quantized].map(async (t) => [...(await t.read())]));
      for (const t of [...labels, quantized]) t.dispose();
      return values;
    };
    const [a, b] = [await read(lfq, features), await read(bsq, smaller)];
    assert.deepEqual(a.slice(0, -1), b.slice(0, -1));
    assert.deepEqual(
      a.at(-1),
      b.at(-1)!.map((v) => 4 * v),
    );
    const encoded = lfq.encode(features, schedule);
    assert.deepEqual(await Promise.all(encoded.map(async (t) => [...(await t.read())])), a.slice(0, -1));
    for (const t of encoded) t.dispose();
  });

  it('exports lfq as a tokenizer that the rest of the library reads', async () => {
    const directory = join(root, 'lfq-export');
    await using(await open({ quantizer: 'lfq' }), (t) => t.export(directory));
    const load = async (): Promise<Autoencoder> => {
      const source = await (await Checkpoint.open(directory)).weights('vae');
      const autoencoder = new Autoencoder(tokenizerConfig.autoencoder as never);
      await autoencoder.loadFrom(floatWeights(source, 'vae'));
      await source.close();
      return autoencoder;
    };
    using exported = await load();
    using trained = await load();
    await restoreLfq(trained);
    using image = uniform([1, 16, 16, 3], 2);
    const schedule = parseGrids(tokenizerConfig.schedule);
    const draw = async (autoencoder: Autoencoder, kind: 'bsq' | 'lfq'): Promise<number[]> => {
      using quantizer = new MultiScaleQuantizer({ codebookDim: 4, kind });
      const picture = scope(() =>
        autoencoder.decode(quantizer.quantize(autoencoder.encode(image), schedule).quantized),
      );
      const values = [...(await picture.readFloats())];
      picture.dispose();
      return values;
    };
    // √4 is a power of two: nothing is rounded.
    assert.deepEqual(await draw(exported, 'bsq'), await draw(trained, 'lfq'));
    assert.notDeepEqual(await draw(exported, 'lfq'), await draw(trained, 'lfq'));
  });

  it('several sizes take turns, and a resumed run takes the same', async () => {
    const sizes = [
      { size: 16, batch_size: 1 },
      { size: 8, batch_size: 2 },
    ];
    const unbroken = await resumes('sizes', { resolutions: sizes });
    const alone = await using(await open({}), (t) => runSome(t, join(root, 'one-size'), 6));
    assert.ok(unbroken.some(({ loss }, i) => loss !== alone[i]!.loss));
  });

  it('named schedules, residual weight and a stepped rate are options', async () => {
    const change = {
      schedule: 'same2',
      loss: { ...tokenizerConfig.loss, residual: 1 },
      optimizer: { ...optimizer, lr_schedule: 'step0.5', warmup_iterations: 0, ema_decay: 0 },
    };
    const events = await resumes('options', change);
    assert.deepEqual(
      events.map(({ lr }) => lr / optimizer.lr),
      [1, 1, 1, 0.1, 0.1, 0.1],
    );
    const { loss, metrics } = events[0]!;
    const { l1, psnr, quantizer, residual } = metrics as Record<string, number>;
    const expected = l1! + 4 / 10 ** (psnr! / 10) + quantizer! + residual!;
    assert.ok(Math.abs(loss - expected) < 1e-5 * loss, `${loss} ${expected}`);
    const directory = join(root, 'same2');
    await using(await open(change), (t) => t.export(directory));
    assert.equal((await (await Checkpoint.open(directory)).config('vae')).scale_schedule, '4 4');
  });

  /** Files of a perceptual network of a few channels, in the form of the published ones. */
  async function perceptualFiles(name: string, seed: number): Promise<string[]> {
    const tensors = [...smallVgg(seed)].map(([n, { data, shape }]) => [n, fromFloat32(data, shape)] as const);
    const paths = [join(root, `${name}16.pth`), join(root, `${name}.pth`)];
    for (const [i, path] of paths.entries()) {
      const own = tensors.filter(([n]) => n.startsWith('lin') === (i === 1));
      await writeFile(path, legacyTorchState(new Map(own)));
    }
    return paths;
  }
  const discriminator = { base_ch: 4, layers: 2, weight: 0.3, start: 2, lr_multiplier: 2, lecam: 0.05 };
  const loss = tokenizerConfig.loss;

  it('perceptual loss and discriminator train along, and a resumed run takes them along', async () => {
    const perceptual_weights = await perceptualFiles('vgg', 1);
    const change = { discriminator, loss: { ...loss, perceptual_weights }, decay_vectors: true };
    const events = await resumes('judged', change);
    const names = events.map(({ metrics }) => Object.keys(metrics).join(' '));
    const terms = 'l1 psnr quantizer residual perceptual';
    const judged = `${terms} adversarial discriminator discriminator_norm`;
    assert.deepEqual(names, [terms, terms, judged, judged, judged, judged]);
    assert.deepEqual(
      events.map(({ phase }) => phase),
      ['plain', 'plain', ...new Array<string>(4).fill('adversarial')],
    );
    for (const { loss: total, watched, metrics } of events) {
      const { l1, psnr, quantizer, perceptual, adversarial = 0 } = metrics as Record<string, number>;
      const others = l1! + 4 / 10 ** (psnr! / 10) + quantizer! + perceptual!;
      assert.ok(Math.abs(total - others - 0.3 * adversarial) < 1e-5 * others, `${total} ${others}`);
      assert.ok(Math.abs(watched! - others) < 1e-5 * others, `${watched} ${others}`);
    }
    // The state holds both networks with the moments of both; the checkpoint holds the tokenizer alone.
    const found = await loadRunState(join(root, 'judged'));
    const held = [...found!.state.tensors.keys()].filter((name) => name.includes('discriminator.main.0.weight'));
    assert.deepEqual(
      held.sort(),
      ['m', 'v', 'weight'].map((what) => `${what}.discriminator.main.0.weight`),
    );

    // Other weights under the same name are no resumption; a second stage takes the discriminator of the first over.
    await perceptualFiles('vgg', 2);
    await using(await open(change), (t) =>
      assert.rejects(
        runSome(t, join(root, 'judged')),
        (e: unknown) => e instanceof InfinityError && e.fields.field === 'perceptual_digest',
      ),
    );
    const second = { discriminator: { ...discriminator, start: 0, init: join(root, 'judged') }, loss };
    const [first] = await using(await open(second), (t) => runSome(t, join(root, 'second'), 1));
    const [fresh] = await using(await open({ discriminator: { ...discriminator, start: 0 }, loss }), (t) =>
      runSome(t, join(root, 'fresh'), 1),
    );
    assert.equal(first!.metrics.l1, fresh!.metrics.l1);
    assert.notEqual(first!.metrics.discriminator, fresh!.metrics.discriminator);
  });

  it('computing blocks again takes less memory and changes no bit, also from a state on', async () => {
    const measured = async (checkpointing: boolean): Promise<{ numbers: unknown[]; peak: number }> => {
      const device = Device.create('cpu', { threads: 1 });
      const size = 32;
      const change = { checkpointing, schedule: '1 2 4 8', dataset: { kind: 'shapes', seed: 5, size }, batch_size: 4 };
      const trainer = await TokenizerTrainer.create({ ...tokenizerConfig, ...change }, { device });
      const events = await using(trainer, (t) => runSome(t, join(root, `checkpointing-${checkpointing}`), 2));
      return {
        numbers: events.map(({ loss: total, gradNorm }) => [total, gradNorm]),
        peak: events[0]!.memory.peakBytes,
      };
    };
    const [kept, again] = [await measured(false), await measured(true)];
    assert.deepEqual(again.numbers, kept.numbers);
    assert.ok(again.peak < 0.75 * kept.peak, `${again.peak} ${kept.peak}`);

    const unbroken = await using(await open({}), (t) => runSome(t, join(root, 'kept')));
    await using(await open({}), (t) => runSome(t, join(root, 'again'), 2));
    const rest = await using(await open({ checkpointing: true }), (t) => runSome(t, join(root, 'again')));
    assert.deepEqual(
      rest.map((e) => e.loss),
      unbroken.slice(2).map((e) => e.loss),
    );
  });

  it('says what is off', async () => {
    const summary = async (change: object): Promise<string> => using(await open(change), async (t) => t.summary ?? '');
    assert.match(await summary({}), /^bsq with 4 bits; no perceptual loss: .*perceptual_weights.*; no discriminator$/);
    assert.match(
      await summary({ discriminator, quantizer: 'lfq' }),
      /^lfq with 4 bits;.*; discriminator from step 2 on$/,
    );
  });

  it('refuses options that fit no picture, naming them', async () => {
    const wrong: [object, RegExp][] = [
      [{ discriminator: { ...discriminator, layers: 3 } }, /discriminator\.layers/],
      [{ discriminator: { ...discriminator, lr: 3 } }, /discriminator\.lr/],
      [{ discriminator: { base_ch: 4 } }, /discriminator\.layers/],
      [{ discriminator: { ...discriminator, init: join(root, 'nowhere') } }, /no saved discriminator/],
      [{ loss: { ...loss, perceptual_weights: 'vgg.pth' } }, /loss\.perceptual_weights/],
      [
        {
          loss: { ...loss, perceptual_weights: ['vgg.pth'] },
          resolutions: [
            { size: 16, batch_size: 1 },
            { size: 8, batch_size: 1 },
          ],
        },
        /16 pixels.*loss\.perceptual_weights/,
      ],
      [{ quantizer: 'vq' }, /quantizer/],
      [{ schedule: 'dense' }, /4 x 4.*16x16.*'schedule'/],
    ];
    const live = Device.default().stats().liveTensors;
    for (const [change, message] of wrong)
      await assert.rejects(open(change), (e: unknown) => {
        assert.ok(e instanceof InfinityError && e.cure !== undefined, String(e));
        assert.match(e.message, message);
        return true;
      });
    assert.equal(Device.default().stats().liveTensors, live);
  });

  it('leaves no tensor behind', async () => {
    const live = Device.default().stats().liveTensors;
    const change = {
      quantizer: 'lfq',
      discriminator: { ...discriminator, layers: 1, start: 1 },
      resolutions: [
        { size: 8, batch_size: 2 },
        { size: 16, batch_size: 1 },
      ],
    };
    await using(await open(change), (t) => runSome(t, join(root, 'leak'), 3));
    assert.equal(Device.default().stats().liveTensors, live);
  });
});
