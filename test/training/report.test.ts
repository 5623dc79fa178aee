import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Image } from '../../lib/io/index.js';
import { sampleGridPath, writeReport } from '../../lib/training/report/index.js';
import { bytes, linearTicks, logTicks, plain, seconds } from '../../lib/training/report/numbers.js';
import { curvesOf } from '../../lib/training/report/series.js';
import type { LogLine } from '../../lib/training/run_log.js';

const VOID = new Set(['meta', 'img', 'br', '!doctype']);
const NASTY = `<script>alert("x")</script>&'"\u0000`;

/** The names of all elements; fails where they are not nested or an attribute is not quoted. */
function elementsOf(html: string): string[] {
  const open: string[] = [];
  const names: string[] = [];
  const text = html.replace(/<style>.*?<\/style>/s, '');
  let at = 0;
  for (const match of text.matchAll(/<(\/?)([!a-z0-9]+)((?:\s+[a-zA-Z:-]+(?:="[^"<>]*")?)*)\s*(\/?)>/g)) {
    assert.doesNotMatch(text.slice(at, match.index), /[<>]/, 'text without brackets');
    at = match.index + match[0].length;
    const [, end, name, , closed] = match;
    if (end) assert.equal(open.pop(), name, `nesting near ${text.slice(Math.max(0, at - 80), at)}`);
    else {
      names.push(name!);
      if (!closed && !VOID.has(name!)) open.push(name!);
    }
  }
  assert.deepEqual([open, text.slice(at).trim()], [[], '']);
  return names;
}

describe('report of a training', () => {
  let root: string;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'infinity-report-'));
  });
  after(() => rm(root, { recursive: true, force: true }));

  const line = (step: number, more: Partial<LogLine> = {}): LogLine => ({
    step,
    time: new Date(Date.UTC(2026, 0, 1) + step * 2000).toISOString(),
    loss: 1 / step,
    metrics: {},
    gradNorm: 0.5,
    lr: 0.001,
    samplesPerSecond: 12,
    memory: { liveBytes: 1e6, peakBytes: 3 * 2 ** 20, rssBytes: 9e7 },
    ...more,
  });

  async function runOf(name: string, lines: readonly LogLine[]): Promise<string> {
    const directory = join(root, name);
    await mkdir(directory, { recursive: true });
    await writeFile(join(directory, 'log.jsonl'), lines.map((l) => `${JSON.stringify(l)}\n`).join(''));
    return directory;
  }

  async function pageOf(directories: readonly string[]): Promise<string> {
    const path = join(root, 'page.html');
    await writeReport(directories, path);
    const html = await readFile(path, 'utf8');
    // Nothing is loaded and nothing runs, whatever names and prompts hold.
    for (const name of elementsOf(html)) assert.ok(!['script', 'link', 'iframe', 'object'].includes(name), name);
    assert.doesNotMatch(html, /https?:|@import|url\(|\son[a-z]+=|alert\("x"\)/);
    for (const [, source] of html.matchAll(/src="([^"]*)"/g)) assert.match(source!, /^data:image\/png;base64,/);
    assert.ok(html.includes('prefers-color-scheme:dark') && html.includes('<html lang="en">'));
    return html;
  }

  const titles = (html: string): string[] =>
    [...html.matchAll(/<figcaption>(.*?) ?(?:<b>.*?<\/b>)?<\/figcaption>/g)].map(([, t]) => t!.trim());

  it('of a transformer has its curves, accuracies of every scale, samples and values to read', async () => {
    const metrics = (step: number) => ({
      accuracy: 0.5 + step / 200,
      scale0: 0.9,
      scale1: 0.8,
      scale10: 0.6,
      [NASTY]: 1,
    });
    const directory = await runOf(
      'transformer',
      [1, 2, 3, 4].map((step) => line(step, { metrics: metrics(step) })),
    );
    for (const step of [2, 4, 6]) {
      await mkdir(join(directory, 'samples'), { recursive: true });
      const samples = { step, columns: 2, prompts: ['a cat', NASTY] };
      await new Image({ width: 4, height: 2, data: new Uint8Array(24), metadata: { samples } }).toFile(
        sampleGridPath(directory, step),
      );
    }
    await writeFile(join(directory, 'samples', 'step-00000003.png'), 'no picture');
    const html = await pageOf([directory]);
    assert.ok(html.includes('&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;&#39;&quot;'));
    const nasty = '&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;&#39;&quot;';
    assert.deepEqual(titles(html), [
      ...['Loss', 'Bit accuracy', 'Gradient norm, before clipping', 'Learning rate', 'transformer', nasty],
      ...['Samples a second', 'Tensor memory, most so far', 'Tensor memory between steps', 'Memory of the process'],
      // Later ones than the log's last step belong to a run that was cut back.
      ...['Step 4', 'Step 2'],
    ]);
    assert.equal(html.match(/<svg [^>]*role="img" aria-label="[^"]+"/g)?.length, 10);
    assert.ok(html.includes('aria-label="Loss. transformer: 1 at step 1, 0.25 at step 4."'));
    assert.ok(html.includes('<title>step 3\n0.3333</title>'));
    assert.match(html, /scale 1 <b>90 %<\/b>.*scale 2 <b>80 %<\/b>.*scale 11 <b>60 %<\/b>/);
    assert.match(html, /<td>4<\/td><td>0\.5208<\/td><td>51\.25 %<\/td><td>12<\/td><td>3 MiB<\/td><td>6 s<\/td>/);
    const path = /<polyline points="([^"]+)"/
      .exec(html)![1]!
      .split(' ')
      .map((p) => p.split(',').map(Number));
    assert.ok(
      path.every(([x, y], i) => i === 0 || (x! > path[i - 1]![0]! && y! > path[i - 1]![1]!)),
      'a falling loss goes down',
    );
  });

  it('of several runs lays their curves over each other under names that differ', async () => {
    const lines = [1, 2, 3].map((step) => line(step, { metrics: { psnr: 20 + step, scale0: 0.5 } }));
    const runs = [await runOf('a/run', lines), await runOf('b/run', lines.slice(0, 1))];
    const html = await pageOf(runs);
    assert.ok(html.includes('<h1>2 runs</h1>') && html.includes('</i>a/run</td>') && html.includes('</i>b/run</td>'));
    assert.ok(
      html.includes('<title>step 2\na/run: 22.00 dB</title>') &&
        html.includes('<title>step 1\na/run: 21.00 dB\nb/run: 21.00 dB</title>'),
    );
    await pageOf([runs[0]!, runs[0]!]);
  });

  it('of a long run stays small; values of many steps become means with their range', async () => {
    const many = Array.from({ length: 20_000 }, (_, i) =>
      line(i + 1, { loss: (i % 2) + 1, metrics: { scale0: 0.5, scale1: 0.4 } }),
    );
    const { curves, summary } = curvesOf(many);
    const loss = curves.get('loss')!;
    assert.deepEqual(
      [loss.length, loss[0], loss.at(-1)!.step],
      [160, { step: 125, mean: 187 / 125, low: 1, high: 2 }, 20_000],
    );
    assert.deepEqual([summary.lastStep, summary.final.get('loss'), summary.samplesPerSecond], [20_000, 1.5, 12]);
    assert.ok((await pageOf([await runOf('long', many)])).length < 400_000);
  });

  it('of what is no run is refused; lines of other things are passed over', async () => {
    await assert.rejects(writeReport([root], join(root, 'none.html')), {
      code: 'INVALID_ARGUMENT',
      value: root,
      cure: /--out/,
    });
    const directory = await runOf('odd', []);
    await writeFile(join(directory, 'log.jsonl'), `null\n{}\n[1]\n${JSON.stringify(line(1))}\nhello\n`);
    assert.ok((await pageOf([directory])).includes('aria-label="Loss. odd: 1 at step 1, 1 at step 1."'));
  });

  it('has round ticks and numbers that are short', () => {
    assert.deepEqual(linearTicks(0, 1, 5), [0, 0.2, 0.4, 0.6, 0.8, 1]);
    assert.deepEqual(linearTicks(-0.31, 0.29, 6), [-0.3, -0.2, -0.1, 0, 0.1, 0.2]);
    assert.deepEqual(linearTicks(3, 3), [3]);
    assert.deepEqual(logTicks(0.05, 2), [0.05, 0.1, 0.2, 0.5, 1, 2]);
    assert.deepEqual(logTicks(1e-8, 1), [1e-8, 1e-6, 1e-4, 1e-2, 1]);
    assert.deepEqual([0, 0.00012345, 0.123456, 1234.5678, 12345678].map(plain), [
      '0',
      '1.23e-4',
      '0.1235',
      '1235',
      '1.23e7',
    ]);
    assert.deepEqual([0, 1023, 1536, 3 * 2 ** 30].map(bytes), ['0 B', '1020 B', '1.5 KiB', '3 GiB']);
    assert.deepEqual([0.0123, 6, 150, 7260].map(seconds), ['0.012 s', '6 s', '3 min', '2 h 01 min']);
  });
});
