import assert from 'node:assert/strict';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { call } from '../support/command_line.js';
import { type OfficialFiles, officialFiles } from '../support/official_files.js';

describe('command line with official files', function () {
  this.timeout(60_000);
  let files: OfficialFiles;
  let out: (name: string) => string;
  before(async () => {
    files = await officialFiles();
    out = (name) => join(files.folder, name);
  });
  after(() => files?.remove());

  const parts = () => ['--transformer', files.transformer, '--vae', files.vae, '--text-encoder', files.textEncoder];
  const small = ['--size', '32', '--seed', '3', '--json'];

  it('draws from parts, converts them, and draws the same from the directory', async () => {
    const drawn = await call(['generate', 'a star', ...parts(), '-o', out('a.png'), ...small]);
    assert.equal(drawn.code, 0, drawn.stderr);
    const converted = await call(['convert', ...parts(), '-o', out('model'), '--dtype', 'bf16', '--json']);
    assert.equal(converted.code, 0, converted.stderr);
    const value = JSON.parse(converted.stdout);
    assert.deepEqual(value.components, ['transformer', 'vae', 'text_encoder']);
    const again = await call(['generate', 'a star', '-m', out('model'), '-o', out('b.png'), ...small]);
    assert.equal(again.code, 0, again.stderr);
    const inspected = JSON.parse((await call(['inspect', out('model'), '--json'])).stdout);
    assert.equal(inspected.sha256, value.sha256);
    assert.deepEqual(Object.keys(inspected.components.transformer.dtypes), ['BF16']);
  });

  it('inspects files and folders of weights', async () => {
    const file = JSON.parse((await call(['inspect', files.training, '--json'])).stdout);
    assert.deepEqual(
      file.networks.map(({ network }: { network: string }) => network),
      ['transformer', 'transformer', 'vae'],
    );
    const folder = JSON.parse((await call(['inspect', files.textEncoder, '--json'])).stdout);
    assert.equal(folder.networks[0].network, 'text_encoder');
  });

  it('takes options from a file, and names flag, tensor, expected and found where they do not fit', async () => {
    const config = out('config.json');
    await writeFile(config, JSON.stringify({ transformer: { num_heads: 4 }, generation: { guidance: 1 } }));
    const before = await readdir(files.folder);
    const wrong = await call(['convert', ...parts(), '--model-config', config, '-o', out('wrong')]);
    assert.equal(wrong.code, 1);
    assert.match(
      wrong.stderr,
      /scale_mul_1H11" \(num_heads, cos_attn\): expected \[1, 4, 1, 1\], found \[1, 2, 1, 1\]/,
    );
    assert.deepEqual(await readdir(files.folder), before);
    for (const args of [
      ['convert', '-o', out('nothing')],
      ['convert', ...parts(), '-m', files.folder, '-o', out('both')],
      ['convert', ...parts(), '--dtype', 'int8', '-o', out('int8')],
      ['generate', ...parts(), '--preset', 'infinity-3b'],
      ['generate', ...parts(), '--model-config', files.transformer],
    ])
      assert.equal((await call(args)).code, 2, args.join(' '));
    const absent = await call(['generate', ...parts(), '--model-config', out('absent.json')]);
    assert.equal(absent.code, 1);
    assert.match(absent.stderr, /model-config .*absent\.json/);
  });
});
