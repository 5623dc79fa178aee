import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Checkpoint } from '../../lib/io/checkpoint.js';
import { loadImage } from '../../lib/io/index.js';
import { type LogLine, readRunLog } from '../../lib/training/run_log.js';
import { loadRunState } from '../../lib/training/run_state.js';
import { call, type Run } from '../support/command_line.js';
import { inner, only, parseEvents, parseMessage } from '../support/event_file.js';
import { withRoom } from '../support/full_disk.js';
import { tokenizerConfig, transformerConfig } from '../support/tiny_training.js';

describe('train', function () {
  this.timeout(60_000);
  let root: string;
  let tokenizer: string;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-train-'));
    tokenizer = join(root, 'tokenizer');
    const { code, stderr } = await train('tokenizer', tokenizer);
    assert.equal(code, 0, stderr);
  });
  after(() => rm(root, { recursive: true, force: true }));

  async function train(
    kind: 'tokenizer' | 'transformer',
    out: string,
    change: object = {},
    more: string[] = [],
  ): Promise<Run> {
    const config = `${out}.json`;
    await writeFile(
      config,
      JSON.stringify({ ...(kind === 'tokenizer' ? tokenizerConfig : transformerConfig), ...change }),
    );
    const given = kind === 'tokenizer' ? [] : ['--tokenizer', join(tokenizer, 'checkpoint')];
    return call(['train', kind, '-c', config, '-o', out, ...given, ...more]);
  }

  const logOf = async (directory: string): Promise<LogLine[]> => {
    const lines: LogLine[] = [];
    for await (const line of readRunLog(directory)) lines.push(line);
    return lines;
  };
  const lossesOf = async (directory: string): Promise<number[]> => (await logOf(directory)).map(({ loss }) => loss);

  it('draws the same pictures with every saved state, and the losses are those of a run that draws none', async () => {
    const [drawn, plain] = [join(root, 'drawn'), join(root, 'plain')];
    const prompts = ['a red circle', `a <b>"star"</b> & ${'very '.repeat(60)}long`];
    const { code, stderr } = await train('transformer', drawn, { samples: { prompts } });
    assert.deepEqual([code, stderr], [0, '']);
    assert.equal((await train('transformer', plain, { samples: { count: 0 } })).code, 0);
    assert.deepEqual(await lossesOf(drawn), await lossesOf(plain));
    assert.deepEqual(
      (await readdir(join(drawn, 'samples'))).sort(),
      [2, 4, 6].map((step) => `step-0000000${step}.png`),
    );
    assert.ok(!(await readdir(plain)).includes('samples'));
    const grid = await loadImage(join(drawn, 'samples', 'step-00000006.png'));
    assert.deepEqual(
      [grid.width, grid.height, grid.metadata],
      [2 * 16 + 2, 16, { samples: { step: 6, columns: 2, prompts } }],
    );
    // Of the exported weights, with the run's seed: anyone can draw them.
    const alone = join(root, 'alone.png');
    await call([
      'generate',
      prompts[0]!,
      '-m',
      join(drawn, 'checkpoint'),
      '--seed',
      String(transformerConfig.seed),
      '-o',
      alone,
    ]);
    const picture = await loadImage(alone);
    for (let y = 0; y < 16; y++)
      assert.deepEqual(grid.data.subarray(y * 34 * 3, (y * 34 + 16) * 3), picture.data.subarray(y * 48, (y + 1) * 48));
    const again = await loadImage(join(tokenizer, 'samples', 'step-00000006.png'));
    assert.deepEqual([again.width, again.height], [8 * 18 - 2, 2 * 18 - 2]);
  });

  it('writes event files where asked: numbers of every step, pictures of every saved one', async () => {
    const directory = join(root, 'events');
    assert.equal((await train('tokenizer', directory, { iterations: 4 }, ['--tensorboard'])).code, 0);
    assert.equal((await train('tokenizer', tokenizer)).code, 0);
    assert.deepEqual(
      (await readdir(tokenizer)).filter((name) => name.includes('tfevents')),
      [],
    );
    const [file] = (await readdir(directory)).filter((name) => name.includes('tfevents'));
    const events = parseEvents(await readFile(join(directory, file!)));
    const told = events
      .filter((event) => event.has(5))
      .map((event) => {
        const values = inner(event, 5)
          .get(1)!
          .map((value) => parseMessage(value as Buffer));
        return { step: only(event, 2), values: new Map(values.map((v) => [String(only(v, 1)), v])) };
      });
    assert.deepEqual(
      told.map(({ step }) => step),
      [1, 2, 2, 3, 4, 4],
    );
    const [line] = await logOf(directory);
    const first = told[0]!.values;
    assert.equal(only(first.get('loss')!, 2), Math.fround(line!.loss));
    assert.equal(only(first.get('metrics/psnr')!, 2), Math.fround(line!.metrics.psnr!));
    assert.equal(only(first.get('optimizer/lr')!, 2), Math.fround(line!.lr));
    const picture = inner(told[2]!.values.get('samples')!, 4);
    assert.deepEqual(only(picture, 4), await readFile(join(directory, 'samples', 'step-00000002.png')));
  });

  it('tells memory, disk and time before the first step, and leaves nothing', async () => {
    const directory = join(root, 'estimated');
    const { code, stdout, stderr } = await train('transformer', directory, {}, ['--estimate', '--json']);
    assert.deepEqual([code, stderr], [0, '']);
    const told = JSON.parse(stdout);
    const { size } = await stat(join(tokenizer, 'checkpoint', 'vae', 'model.safetensors'));
    assert.ok(told.checkpointBytes > size && told.diskBytes > 3 * told.stateBytes);
    assert.ok(told.samplesPeakBytes > 0 && told.flops > 0 && told.peakBytes > told.stateBytes);
    const { secondsPerStep, secondsPerBatch, totalSeconds } = told.time;
    assert.ok(Math.abs(totalSeconds / (6 * Math.max(secondsPerStep, secondsPerBatch)) - 1) < 1e-9);
    const text = (await train('transformer', directory, { samples: { count: 0 } }, ['--estimate'])).stdout;
    for (const row of [
      'weights',
      'moments of AdamW',
      'averaged weights',
      'activations, gradients',
      'tensor memory, peak',
      'a saved state',
      'a step',
      '6 steps',
    ])
      assert.match(text, new RegExp(`^ *${row}.*\\d`, 'm'));
    assert.ok(!(await readdir(root)).includes('estimated'));
    const before = process.env.NODE_INFINITY_MEMORY_LIMIT;
    process.env.NODE_INFINITY_MEMORY_LIMIT = '500000';
    try {
      const large = await train('tokenizer', directory, {}, ['--estimate']);
      assert.match(large.stdout, /needs more memory than the 488 KiB that are allowed/, large.stderr);
    } finally {
      if (before === undefined) delete process.env.NODE_INFINITY_MEMORY_LIMIT;
      else process.env.NODE_INFINITY_MEMORY_LIMIT = before;
    }
  });

  it('on a disk that fills up it stops with the path, the last state and the cure; nothing is half there, and it goes on later', async () => {
    const [change, options] = [{ iterations: 4 }, ['--tensorboard']];
    const whole = join(root, 'room');
    assert.equal((await train('tokenizer', whole, change, options)).code, 0);
    const losses = await lossesOf(whole);
    const sizeOf = async (...name: string[]): Promise<number> => (await stat(join(whole, ...name))).size;
    const state = await sizeOf('state-00000002.safetensors');
    const weights = await sizeOf('checkpoint', 'vae', 'model.safetensors');
    const picture = await sizeOf('samples', 'step-00000002.png');
    // What is written first: two lines, some events and two small files of the checkpoint take less than 3000 bytes, more than 1500.
    const saved = state + weights + 1500;
    const rooms: Record<string, number> = {
      log: 10,
      tfevents: 500,
      state: state / 2,
      checkpoint: state + weights / 2,
      samples: saved + 0.7 * picture,
      report: saved + 2 * picture + 3000,
      // Of the second saved state.
      later: 1.5 * (saved + 2 * picture),
    };
    for (const [output, room] of Object.entries(rooms)) {
      const directory = join(root, `room-${output}`);
      const run = await withRoom(Math.round(room), () => train('tokenizer', directory, change, options));
      assert.equal(run.code, 1, `${output}: ${run.stderr}`);
      const [, path] = /No space left to write (.*?)\. .*Free some space, then run.*\[DISK_FULL\]/.exec(run.stderr)!;
      if (output !== 'later')
        assert.match(path!.slice(root.length + output.length + 6), new RegExp(`^.?[^/]*${output}`));
      const names = await readdir(directory, { recursive: true });
      assert.deepEqual(
        names.filter((name) => /tmp|previous/.test(name)),
        [],
      );
      const logged = await lossesOf(directory);
      assert.deepEqual(logged, losses.slice(0, logged.length));
      for (const name of names.filter((n) => n.includes('tfevents')))
        parseEvents(await readFile(join(directory, name)));
      if (names.includes('checkpoint')) await (await Checkpoint.open(join(directory, 'checkpoint'))).component('vae');
      const last = await loadRunState(directory);
      assert.equal(last !== undefined, ['checkpoint', 'samples', 'report', 'later'].includes(output));
      assert.equal(run.stderr.includes(`The state of step ${last?.state.step} is safe`), last !== undefined);
    }
    const directory = join(root, 'room-later');
    const rest = await train('tokenizer', directory, change, options);
    assert.equal(rest.code, 0, rest.stderr);
    assert.deepEqual(await lossesOf(directory), losses);
  });
});
