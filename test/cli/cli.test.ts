import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Image, loadImage } from '../../lib/io/index.js';
import { call, type Run } from '../support/command_line.js';
import { tinyCheckpoint } from '../support/tiny_checkpoint.js';

const MAIN = fileURLToPath(new URL('../../lib/cli/main.ts', import.meta.url));
const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** Runs it in a process of its own, and interrupts that once it has written something that fits. */
async function spawned(args: readonly string[], interrupt?: RegExp): Promise<Run> {
  const child = spawn(process.execPath, ['--import', 'tsx', MAIN, ...args], { cwd: ROOT });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text) => {
    stdout += text;
    if (interrupt?.test(stdout)) child.kill('SIGINT');
  });
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text;
  });
  const [code] = await once(child, 'close');
  return { code, stdout, stderr };
}

describe('command line', function () {
  this.timeout(60_000);
  let tiny: Awaited<ReturnType<typeof tinyCheckpoint>>;
  let out: (name: string) => string;
  before(async () => {
    tiny = await tinyCheckpoint();
    out = (name) => join(tiny.folder, name);
  });
  after(() => tiny?.remove());

  it('draws, tells of it on stdout, and draws the same picture again from the file', async () => {
    const [a, b] = [out('a.png'), out('b.png')];
    const first = await call([
      'generate',
      'a star',
      '-m',
      tiny.directory,
      '-o',
      a,
      '--seed',
      '7',
      '--tau',
      '0.5',
      '--json',
    ]);
    assert.equal(first.code, 0, first.stderr);
    assert.equal(first.stderr, '');
    const { images, milliseconds } = JSON.parse(first.stdout);
    assert.deepEqual(images, [{ path: a, prompt: 'a star', seed: 7, width: 16, height: 16 }]);
    assert.ok(milliseconds > 0);
    const shown = await call(['inspect', a, '--json']);
    const { prompt, seed, tau, model } = JSON.parse(shown.stdout);
    assert.deepEqual([prompt, seed, tau, model.name], ['a star', 7, 0.5, 'model']);
    const again = await call(['generate', '--from', a, '-m', tiny.directory, '-o', b]);
    assert.equal(again.code, 0, again.stderr);
    assert.match(again.stdout, /b\.png {2}"a star" {2}seed 7 {2}\d+ ms/);
    assert.deepEqual(await readFile(b), await readFile(a));
  });

  it('numbers several pictures, writes one to stdout', async () => {
    const several = await call(['generate', 'a', 'b', '-n', '2', '-m', tiny.directory, '-o', out('x.webp')]);
    assert.equal(several.code, 0, several.stderr);
    const pictures = await Promise.all([1, 2, 3, 4].map((i) => loadImage(out(`x-${i}.webp`))));
    assert.ok(pictures.every(({ width }) => width === 16));
    const piped = await call(['generate', 'a', '-m', tiny.directory, '-o', '-']);
    assert.equal(piped.code, 0, piped.stderr);
    assert.match(piped.stdout, /^\x89PNG/);
  });

  it('reconstructs, describes and measures', async () => {
    const { images } = JSON.parse(
      (await call(['generate', 'a', '-m', tiny.directory, '-o', out('r.png'), '--json'])).stdout,
    );
    const picture = images[0].path;
    const reconstructed = await call(['reconstruct', picture, '-m', tiny.directory, '-o', out('s.png'), '--json']);
    const described = await call(['inspect', tiny.directory]);
    const measured = await call(['bench', '-m', tiny.directory, '--rounds', '2', '--json']);
    const { psnr, ssim, bits, bitsPerPixel, path } = JSON.parse(reconstructed.stdout);
    assert.deepEqual([typeof psnr, typeof ssim, bits, path], ['number', 'number', 168, out('s.png')]);
    assert.equal(bitsPerPixel, 168 / 256);
    assert.equal(JSON.parse(described.stdout).components.vae.config.codebook_dim, 8);
    const lines = measured.stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    assert.ok(lines.length >= 8 && lines.every(({ name, value, unit }) => name && value > 0 && unit));
  });

  it('writes a picture as bits and decodes them, whole and in part', async () => {
    const [png, bits, whole, part] = ['e.png', 'e.bits', 'e-whole.png', 'e-part.png'].map(out) as [string, ...string[]];
    assert.equal((await call(['generate', 'a', '-m', tiny.directory, '-o', png])).code, 0);
    const encoded = await call(['encode', png, '-m', tiny.directory, '-o', bits!, '--json']);
    assert.equal(encoded.code, 0, encoded.stderr);
    const { length } = await readFile(bits!);
    const expected = {
      path: bits,
      width: 16,
      height: 16,
      scales: 3,
      bits: 168,
      bitsPerPixel: 168 / 256,
      bytes: length,
    };
    assert.deepEqual(JSON.parse(encoded.stdout), expected);
    const shown = JSON.parse((await call(['inspect', bits!, '--json'])).stdout);
    assert.deepEqual([shown.grids, shown.scales, shown.bits], [[1, 2, 4].map((n) => [n, n]), 3, 168]);
    assert.equal(shown.tokenizer.name, 'model');
    const decoded = await call(['decode', bits!, '-m', tiny.directory, '-o', whole!]);
    assert.match(decoded.stdout, /e-whole\.png {2}16x16 {2}3 of 3 scales/);
    const coarse = await call(['decode', bits!, '-m', tiny.directory, '-o', part!, '--scales', '2', '--json']);
    assert.deepEqual(JSON.parse(coarse.stdout), { path: part, width: 16, height: 16, scales: 2, of: 3 });
    assert.notDeepEqual((await loadImage(part!)).data, (await loadImage(whole!)).data);
    await call(['reconstruct', png, '-m', tiny.directory, '-o', out('e-again.png')]);
    assert.deepEqual((await loadImage(out('e-again.png'))).data, (await loadImage(whole!)).data);
  });

  it('edits and varies a picture, and says so inside', async () => {
    const [png, mask, edited] = ['v.png', 'mask.png', 'edited.png'].map(out) as [string, string, string];
    assert.equal((await call(['generate', 'a star', '-m', tiny.directory, '-o', png])).code, 0);
    const white = Uint8Array.from({ length: 768 }, (_, i) => (i < 384 ? 255 : 0));
    await new Image({ width: 16, height: 16, data: white }).toFile(mask);
    const edit = await call(['edit', png, 'a ring', '--mask', mask, '-m', tiny.directory, '-o', edited, '-s', '3']);
    assert.equal(edit.code, 0, edit.stderr);
    assert.match(edit.stdout, /edited\.png {2}"a ring" {2}seed 3 {2}\d+ ms/);
    assert.equal(JSON.parse((await call(['inspect', edited, '--json'])).stdout).edit.redrawn, 0.5);
    const again = await call(['generate', '--from', edited, '-m', tiny.directory]);
    assert.deepEqual([again.code, again.stdout], [1, '']);
    const place = ['--place', '0,0,8,8', '-m', tiny.directory, '-o', out('p.png'), '--json'];
    const placed = await call(['edit', png, 'a ring', ...place]);
    assert.equal(placed.code, 0, placed.stderr);
    const vary = await call(['vary', png, '-k', '1', '-n', '2', '-m', tiny.directory, '-o', out('w.png'), '--json']);
    assert.equal(vary.code, 0, vary.stderr);
    assert.deepEqual(
      JSON.parse(vary.stdout).images.map(({ path, prompt }: { path: string; prompt: string }) => [path, prompt]),
      [1, 2].map((i) => [out(`w-${i}.png`), 'a star']),
    );
  });

  it('ends with 2 for a wrong call, 1 for a failure, and names the cure', async () => {
    const text = out('text.png');
    await writeFile(text, 'no picture');
    const calls: [number, RegExp, string[]][] = [
      [2, /unknown option '--sed'/, ['generate', '--sed', '1']],
      [2, /--seed takes a number/, ['generate', '--seed', 'one']],
      [2, /UNSUPPORTED_SIZE.*/, ['generate', 'a', '--size', '17', '-m', tiny.directory]],
      [2, /Give a file name/, ['generate', 'a', 'b', '-o', '-', '-m', tiny.directory]],
      [1, /MODEL_NOT_FOUND/, ['generate', 'a', '-m', out('nowhere')]],
      [1, /IMAGE_INVALID/, ['reconstruct', text, '-m', tiny.directory]],
      [1, /IO_ERROR/, ['inspect', out('nothing')]],
      [2, /required option .*--keep-scales/, ['vary', text]],
      [1, /text\.png is no bit file.*BITS_INVALID/, ['decode', text, '-m', tiny.directory]],
      [2, /ends in \.bits/, ['encode', text, '-o', out('b.png'), '-m', tiny.directory]],
    ];
    for (const [code, message, args] of calls) {
      const run = await call(args);
      assert.equal(run.code, code, run.stderr);
      assert.match(run.stderr, message);
      assert.equal(run.stdout, '');
    }
    const { code, stdout } = await spawned(['eval', '--prompts', 'many']);
    assert.deepEqual([code, stdout], [2, '']);
  });

  it('ends with 130 when it is interrupted', async () => {
    const { code, stderr } = await spawned(['bench', '-m', tiny.directory, '--rounds', '1000000', '--json'], /"load"/);
    assert.equal(code, 130, stderr);
    assert.match(stderr, /Interrupted/);
  });

  it('refuses to repeat a picture with another model unless it was chosen', async () => {
    const drawn = await call(['generate', 'a', '-m', tiny.directory, '-o', out('m.png'), '--json']);
    assert.equal(drawn.code, 0, drawn.stderr);
    const other = await tinyCheckpoint(({ components: { vae, ...rest }, ...content }) => ({
      ...content,
      components: { ...rest, vae: { ...vae!, config: { ...vae!.config, note: 'another' } } },
    }));
    try {
      const chosen = await call(['generate', '--from', out('m.png'), '-m', other.directory, '-o', out('n.png')]);
      assert.equal(chosen.code, 0, chosen.stderr);
      assert.match(chosen.stderr, /drawn by model "model"/);
    } finally {
      await other.remove();
    }
  });
});
