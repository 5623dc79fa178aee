import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, readFile, stat, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { type PullOptions, pull, resolveModelSource } from '../../lib/io/hub/index.js';
import { withLock } from '../../lib/io/hub/lock.js';
import { hubSettings } from '../../lib/io/hub/settings.js';
import { fails, HubFixture, SOURCE, stallAfter, WEIGHTS } from '../support/hub_fixture.js';
import { COMMIT, type Fault, sha256 } from '../support/hub_server.js';

describe('cache of a hub', () => {
  let hub: HubFixture;
  let root: string;
  let options: PullOptions;
  let cache: HubFixture['cache'];
  beforeEach(async () => {
    hub = await HubFixture.start();
    ({ root, options, cache } = hub);
  });
  afterEach(() => hub.stop());

  describe('concurrent pulls', () => {
    it('of one process share the work', async () => {
      const slow: Fault = (response, { content }) => {
        response.writeHead(200, { 'content-length': content.length });
        response.write(content.subarray(0, 1000));
        setTimeout(() => response.end(content.subarray(1000)), 200);
      };
      hub.fault(slow);
      const results = await Promise.all([1, 2, 3].map(() => pull(SOURCE, options)));
      assert.ok((await hub.pulledWeights()).equals(WEIGHTS));
      assert.equal(hub.weightRequests().length, 1);
      assert.equal(results.filter(({ downloaded }) => downloaded >= WEIGHTS.length).length, 1);
      assert.equal((await hub.blobs()).length, 2);
    });

    it('take over from a process that was killed', async function () {
      this.timeout(60_000);
      hub.fault(stallAfter(200_000));
      const code = `import { pull } from ${JSON.stringify(new URL('../../lib/io/hub/index.ts', import.meta.url).href)};
        await pull('${SOURCE}', ${JSON.stringify({ ...options, stall: 60 })});`;
      const child: ChildProcess = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', code]);
      const incomplete = `${cache.blob(sha256(WEIGHTS))}.pull.incomplete`;
      while ((await stat(incomplete).catch(() => undefined))?.size !== 200_000) {
        assert.equal(child.exitCode, null, 'the child waits for the rest');
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      child.kill('SIGKILL');
      await once(child, 'exit');
      assert.ok((await readdir(join(root, '.locks/models--org--repo'))).includes(`${sha256(WEIGHTS)}.pull.lock`));
      assert.ok((await pull(SOURCE, options)).downloaded <= 100_010);
      assert.ok((await hub.pulledWeights()).equals(WEIGHTS));
    });

    it('wait for a living lock and break a silent one', async () => {
      const path = join(root, 'locks', 'x.lock');
      const foreign = JSON.stringify({ host: `not-${hostname()}`, pid: 1, id: 'theirs' });
      await mkdir(join(root, 'locks'));
      await writeFile(path, foreign);
      let touches = 0;
      const onWait = () => {
        if (touches++ < 20) utimes(path, new Date(), new Date(1e12 + touches * 1000)).catch(() => undefined);
      };
      await withLock(path, { patience: 50, onWait }, async () => {
        assert.ok(touches > 20, 'while it is touched it is respected');
        assert.notEqual(await readFile(path, 'utf8'), foreign);
      });
      assert.deepEqual(await readdir(join(root, 'locks')), []);
    });

    it('are let in one by one', async () => {
      let inside = 0;
      const enter = () =>
        withLock(join(root, 'l', 'y.lock'), {}, async () => {
          assert.equal(++inside, 1);
          await new Promise((resolve) => setTimeout(resolve, 5));
          inside--;
        });
      await Promise.all([enter(), enter(), enter()]);
    });
  });

  describe('offline', () => {
    it('uses what was pulled', async () => {
      const offline = { ...options, endpoint: 'http://127.0.0.1:1', offline: true };
      await assert.rejects(pull(SOURCE, offline), fails('MODEL_NOT_FOUND', /node-infinity pull hf:org\/repo/));
      const { directory } = await pull(SOURCE, options);
      assert.equal((await pull(SOURCE, offline)).directory, directory);
      assert.equal((await pull(`${SOURCE}@${COMMIT}`, offline)).directory, directory);
      await assert.rejects(pull(`${SOURCE}@other`, offline), fails('MODEL_NOT_FOUND', /hf:org\/repo@other/));
    });

    it('is where a source leads', async () => {
      await pull(SOURCE, options);
      const before = process.env.HF_HUB_CACHE;
      process.env.HF_HUB_CACHE = root;
      try {
        assert.equal(await resolveModelSource(SOURCE), cache.snapshot(COMMIT));
        const weights = 'transformer/model.safetensors';
        assert.equal(await resolveModelSource(`${SOURCE}/${weights}`), join(cache.snapshot(COMMIT), weights));
        await assert.rejects(resolveModelSource(`${SOURCE}/x`), fails('MODEL_NOT_FOUND', /pull hf:org\/repo\/x/));
        assert.equal(await resolveModelSource('some/folder'), 'some/folder');
        await assert.rejects(resolveModelSource('hf:org/other'), fails('MODEL_NOT_FOUND', /pull hf:org\/other/));
      } finally {
        if (before === undefined) delete process.env.HF_HUB_CACHE;
        else process.env.HF_HUB_CACHE = before;
      }
    });
  });

  it('takes its settings from the environment of the Hugging Face tools', async () => {
    const settings = (env: Record<string, string>) => hubSettings({}, { HF_HOME: root, ...env });
    await writeFile(join(root, 'token'), ' stored\n');
    assert.deepEqual(await settings({}), {
      cacheDirectory: join(root, 'hub'),
      endpoint: 'https://huggingface.co',
      token: 'stored',
      offline: false,
    });
    const given = {
      HF_HUB_CACHE: join(root, 'c'),
      HF_ENDPOINT: 'http://mirror/hf/',
      HF_TOKEN: 't',
      HF_HUB_OFFLINE: 'yes',
    };
    const expected = { cacheDirectory: join(root, 'c'), endpoint: 'http://mirror/hf', token: 't', offline: true };
    assert.deepEqual(await settings(given), expected);
    assert.equal((await settings({ HF_HUB_OFFLINE: '0' })).offline, false);
    assert.equal((await hubSettings({ cacheDirectory: root }, given)).cacheDirectory, root);
  });
});
