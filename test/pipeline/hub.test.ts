import assert from 'node:assert/strict';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join, sep } from 'node:path';
import { runProgram } from '../../lib/cli/program.js';
import { InfinityPipeline } from '../../lib/pipeline/index.js';
import { HubFixture, SOURCE } from '../support/hub_fixture.js';
import { tinyCheckpoint } from '../support/tiny_checkpoint.js';

describe('a model on a hub', () => {
  let hub: HubFixture;
  const before = { ...process.env };
  beforeEach(async () => {
    hub = await HubFixture.start();
    Object.assign(process.env, { HF_HUB_CACHE: hub.root, HF_ENDPOINT: hub.server.endpoint, HF_TOKEN: 'secret' });
  });
  afterEach(async () => {
    for (const name of ['HF_HUB_CACHE', 'HF_ENDPOINT', 'HF_TOKEN'])
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    await hub.stop();
  });

  /** Serves the files of a folder. */
  async function publish(folder: string): Promise<void> {
    hub.server.files.clear();
    for (const name of await readdir(folder, { recursive: true })) {
      if ((await stat(join(folder, name))).isDirectory()) continue;
      const large = name.endsWith('.safetensors');
      hub.server.files.set(name.replaceAll(sep, '/'), { content: await readFile(join(folder, name)), large });
    }
  }

  it('is pulled by the command and draws what its folder draws', async () => {
    const tiny = await tinyCheckpoint();
    try {
      await publish(tiny.directory);
      await assert.rejects(InfinityPipeline.fromPretrained(SOURCE), /node-infinity pull hf:org\/repo/);
      const { write } = process.stdout;
      let printed = '';
      process.stdout.write = ((text: string) => {
        printed += text;
        return true;
      }) as typeof write;
      const code = await runProgram(['pull', SOURCE, '--json']).finally(() => {
        process.stdout.write = write;
      });
      assert.equal(code, 0);
      const { directory, bytes, downloaded } = JSON.parse(printed) as Record<string, unknown>;
      assert.ok(String(directory).startsWith(hub.root) && bytes === downloaded);
      const requests = hub.server.log.length;
      const pictures: Uint8Array[] = [];
      for (const source of [tiny.directory, SOURCE]) {
        await using pipe = await InfinityPipeline.fromPretrained(source);
        pictures.push((await pipe.generate('a red circle', { seed: 7 })).images[0]!.data);
        if (source === SOURCE) assert.equal(pipe.info.name, 'org/repo');
      }
      assert.deepEqual(pictures[0], pictures[1]);
      assert.equal(hub.server.log.length, requests, 'loading asks no network');
    } finally {
      await tiny.remove();
    }
  });
});
