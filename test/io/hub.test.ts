import assert from 'node:assert/strict';
import { lstat, readdir, readFile, readlink, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { InfinityErrorCode } from '../../lib/errors.js';
import { RepositoryCache } from '../../lib/io/hub/cache.js';
import { type PullOptions, pull } from '../../lib/io/hub/index.js';
import { selectFiles } from '../../lib/io/hub/listing.js';
import { parseHubSource } from '../../lib/io/hub/source.js';
import {
  cutOffAfter,
  fails,
  HubFixture,
  noise,
  README,
  SOURCE,
  stallAfter,
  status,
  WEIGHTS,
} from '../support/hub_fixture.js';
import { COMMIT, type Fault, gitDigest, sendFile, sha256 } from '../support/hub_server.js';

describe('hub', () => {
  let hub: HubFixture;
  let server: HubFixture['server'];
  let root: string;
  let options: PullOptions;
  let cache: HubFixture['cache'];
  beforeEach(async () => {
    hub = await HubFixture.start();
    ({ server, root, options, cache } = hub);
  });
  afterEach(() => hub.stop());

  describe('pull', () => {
    it('fills the standard cache layout, and asks for nothing twice', async () => {
      const progress: number[] = [];
      const result = await pull(SOURCE, { ...options, onProgress: ({ bytes }) => progress.push(bytes) });
      const total = WEIGHTS.length + 10;
      assert.deepEqual(
        { ...result, files: [...result.files].sort() },
        {
          directory: cache.snapshot(COMMIT),
          commit: COMMIT,
          files: ['README.md', 'transformer/model.safetensors'],
          bytes: total,
          downloaded: total,
        },
      );
      assert.deepEqual(await hub.blobs(), [gitDigest(README), sha256(WEIGHTS)].sort());
      assert.equal(await readFile(join(cache.directory, 'refs/main'), 'utf8'), COMMIT);
      assert.equal(
        await readlink(join(result.directory, 'transformer/model.safetensors')),
        `../../../blobs/${sha256(WEIGHTS)}`,
      );
      assert.ok((await hub.pulledWeights()).equals(WEIGHTS));
      assert.equal(progress.at(-1), total);
      assert.deepEqual(await readdir(join(root, '.locks/models--org--repo')), []);
      server.log.length = 0;
      assert.equal((await pull(SOURCE, options)).downloaded, 0);
      assert.deepEqual(
        server.log.filter((line) => !line.includes('/api/')),
        [],
      );
    });

    it('reads a list of several pages', async () => {
      for (let i = 0; i < 9; i++) server.files.set(`shard ${i}?#%.bin`, { content: Buffer.from(`${i}`) });
      server.pageSize = 2;
      const { files, directory } = await pull(SOURCE, options);
      assert.equal(files.length, 11);
      assert.equal(await readFile(join(directory, 'shard 7?#%.bin'), 'utf8'), '7');
    });

    it('takes the files of the patterns only', async () => {
      const { files } = await pull(SOURCE, { ...options, include: ['*.safetensors'] });
      assert.deepEqual(files, ['transformer/model.safetensors']);
      await assert.rejects(pull(SOURCE, { ...options, include: ['*.onnx'] }), fails('INVALID_ARGUMENT', /README\.md/));
      const all = ['a/b.txt', 'a/c', 'ab', 'a.b'].map((path) => ({
        path,
        bytes: 0,
        digest: '',
        digestOf: 'sha256' as const,
      }));
      const chosen = (...patterns: string[]) => selectFiles(all, patterns).map(({ path }) => path);
      assert.deepEqual(chosen('a/'), ['a/b.txt', 'a/c']);
      assert.deepEqual(chosen('a?b'), ['a.b']);
      assert.deepEqual(chosen('*b', 'a/c'), ['a/c', 'ab', 'a.b']);
    });

    it('takes the file or folder that the source names', async () => {
      for (const path of ['transformer/model.safetensors', 'transformer'])
        assert.deepEqual((await pull(`${SOURCE}/${path}`, options)).files, ['transformer/model.safetensors']);
      await assert.rejects(
        pull(`${SOURCE}/trans`, options),
        fails('MODEL_NOT_FOUND', /hf:org\/repo\/trans.*README\.md/),
      );
    });

    it('keeps the token for the endpoint', async () => {
      await pull(SOURCE, options);
      assert.ok(server.log.filter((line) => line.startsWith('hub')).every((line) => line.endsWith('Bearer secret')));
      assert.equal(hub.weightRequests().length, 1);
      assert.ok(hub.weightRequests().every((line) => !line.includes('secret')));
    });

    it('copies where links cannot be made', async () => {
      await pull(SOURCE, options);
      const denied = Object.assign(new Error('no links'), { code: 'EPERM' });
      const copying = new RepositoryCache(root, 'org/repo', () => Promise.reject(denied));
      const other = COMMIT.replace('0', 'f');
      for (let twice = 0; twice < 2; twice++) await copying.place(sha256(WEIGHTS), other, 'deep/er/weights.bin');
      const path = join(cache.snapshot(other), 'deep/er/weights.bin');
      assert.ok((await lstat(path)).isFile());
      assert.ok((await readFile(path)).equals(WEIGHTS));
      assert.deepEqual(await readdir(join(cache.snapshot(other), 'deep/er')), ['weights.bin']);
    });

    it('follows a revision that moves on, and keeps the old snapshot', async () => {
      await pull(SOURCE, options);
      server.commit = COMMIT.replace('0', 'a');
      server.files.set('README.md', { content: Buffer.from('# Better\n') });
      const { directory, downloaded } = await pull(SOURCE, options);
      assert.equal(downloaded, 9);
      assert.equal(await readFile(join(directory, 'README.md'), 'utf8'), '# Better\n');
      assert.equal(await readFile(join(cache.snapshot(COMMIT), 'README.md'), 'utf8'), '# A model\n');
    });
  });

  describe('a broken download', () => {
    it('goes on where it stopped', async () => {
      hub.fault(cutOffAfter(100_000), (response, file, request) => {
        assert.equal(request.headers['if-range'], '"first"');
        request.headers['if-range'] = undefined;
        sendFile(file, request, response);
      });
      const { downloaded } = await pull(SOURCE, options);
      assert.ok((await hub.pulledWeights()).equals(WEIGHTS));
      assert.match(hub.weightRequests()[1]!, /bytes=[1-9]\d*-/);
      assert.equal(downloaded, WEIGHTS.length + 10);
    });

    it('is taken up by a later call', async () => {
      hub.fault(cutOffAfter(200_000));
      await assert.rejects(pull(SOURCE, { ...options, retries: 0 }), fails('DOWNLOAD_FAILED', /connection/));
      const { size: arrived } = await stat(`${cache.blob(sha256(WEIGHTS))}.pull.incomplete`);
      assert.ok(arrived > 0 && arrived <= 200_000);
      await assert.rejects(lstat(join(cache.snapshot(COMMIT), 'transformer/model.safetensors')));
      await assert.rejects(readFile(join(cache.directory, 'refs/main')), 'a revision names complete snapshots only');
      const { downloaded } = await pull(SOURCE, options);
      assert.ok(hub.weightRequests()[1]!.endsWith(`bytes=${arrived}-`));
      assert.ok(downloaded <= WEIGHTS.length - arrived + 10, `${downloaded}`);
      assert.ok((await hub.pulledWeights()).equals(WEIGHTS));
    });

    it('that stalls is begun again', async () => {
      hub.fault(stallAfter(1000), () => {});
      await pull(SOURCE, options);
      assert.equal(hub.weightRequests().length, 3);
      assert.ok((await hub.pulledWeights()).equals(WEIGHTS));
    });

    it('that only ever stalls ends with an error', async () => {
      hub.fault(stallAfter(0), stallAfter(0));
      await assert.rejects(
        pull(SOURCE, { ...options, retries: 1, stall: 0.05 }),
        fails('DOWNLOAD_FAILED', /nothing for 0\.05 s/),
      );
    });

    it('starts anew where the server cannot resume, or sends another part', async () => {
      const whole: Fault = (response, file, request) => {
        request.headers.range = undefined;
        sendFile(file, request, response);
      };
      const wrongPart: Fault = (response, { content }) => {
        response.writeHead(206, { 'content-range': `bytes 0-9/${content.length}`, 'content-length': 10 });
        response.end(content.subarray(0, 10));
      };
      hub.fault(cutOffAfter(5000), wrongPart, status(416), cutOffAfter(6000), whole);
      await pull(SOURCE, { ...options, retries: 4 });
      assert.ok((await hub.pulledWeights()).equals(WEIGHTS));
      assert.deepEqual(
        hub.weightRequests().map((line) => line.includes('bytes=')),
        [false, true, true, false, true],
      );
    });

    it('of a file that changed in between is not mixed', async () => {
      const other = noise(2, WEIGHTS.length);
      const ignoringIfRange: Fault = (response, file, request) => {
        request.headers['if-range'] = undefined;
        sendFile({ ...file, content: other }, request, response);
      };
      hub.fault(cutOffAfter(5000), ignoringIfRange);
      await pull(SOURCE, options);
      assert.ok((await hub.pulledWeights()).equals(WEIGHTS), 'the mixture was refused and the file fetched again');
      assert.equal(hub.weightRequests().at(-1)?.includes('bytes='), false);
    });

    it('honours Retry-After, and gives up in the end', async () => {
      server.apiStatuses.push({ status: 429, headers: { 'retry-after': '0' } }, { status: 500 }, { status: 503 });
      await pull(SOURCE, options);
      server.files.set('new.bin', { content: noise(3, 10) });
      server.faults.set(
        'new.bin',
        [500, 502, 503, 504].map((code) => status(code)),
      );
      await assert.rejects(pull(SOURCE, options), fails('DOWNLOAD_FAILED', /status 504/));
      await assert.rejects(
        pull(SOURCE, { ...options, endpoint: 'http://127.0.0.1:1' }),
        fails('DOWNLOAD_FAILED', /ECONNREFUSED|bad port|fetch failed/),
      );
    });
  });

  describe('a server that lies', () => {
    const refused = async (pattern: RegExp, code: InfinityErrorCode = 'DOWNLOAD_FAILED') => {
      await assert.rejects(pull(SOURCE, { ...options, retries: 1 }), fails(code, pattern));
      assert.equal(await cache.holds(sha256(WEIGHTS), WEIGHTS.length), false);
      await assert.rejects(lstat(join(cache.snapshot(COMMIT), 'transformer/model.safetensors')));
    };
    const file = () => server.files.get('transformer/model.safetensors')!;

    it('about the length in its header', async () => {
      const short: Fault = (response, { content }) => {
        response.writeHead(200, { 'content-length': 1000 }).end(content.subarray(0, 1000));
      };
      hub.fault(short, short);
      await refused(/promises 1000 bytes/);
    });

    it('about the length without a header', async () => {
      const long: Fault = (response, { content }) => response.writeHead(200).end(Buffer.concat([content, content]));
      const short: Fault = (response, { content }) => response.writeHead(200).end(content.subarray(0, 1000));
      hub.fault(long, long);
      await refused(/more than 300000 bytes/);
      hub.fault(short, short);
      await refused(/ended after 1000 of 300000/);
    });

    it('about the content', async () => {
      const other: Fault = (response, _, request) => sendFile({ content: noise(9, WEIGHTS.length) }, request, response);
      hub.fault(other, other);
      await refused(/digest/);
      assert.equal(hub.weightRequests().length, 2);
    });

    it('in its list', async () => {
      file().listed = { size: WEIGHTS.length - 1 };
      await refused(/300000 bytes, but the list says 299999/);
      file().listed = { oid: sha256(noise(5, 10)) };
      await refused(/but the list says/);
      server.files.set('README.md', { content: Buffer.from('x'), listed: { oid: '../../../escape' } });
      await refused(/no digest for README/, 'CHECKPOINT_INVALID');
    });

    it('about names', async () => {
      for (const path of [
        '../escape',
        '/etc/passwd',
        'a/../../b',
        'a\\..\\b',
        'C:x',
        '',
        'a//b',
        '.',
        'a\0b',
        'a/..',
      ]) {
        server.files.set('README.md', { content: Buffer.from('x'), listed: { path } });
        await assert.rejects(pull(SOURCE, options), fails('CHECKPOINT_INVALID', /unsafe name/), JSON.stringify(path));
      }
      assert.deepEqual(await readdir(root), []);
    });

    it('about the commit, or with something that is no list', async () => {
      server.commit = '../../x';
      await refused(/names no commit/, 'CHECKPOINT_INVALID');
      server.commit = COMMIT;
      server.apiStatuses.push({ status: 200 }, { status: 200 });
      await refused(/names no commit/, 'CHECKPOINT_INVALID');
    });

    it('with redirects without an end', async () => {
      const around: Fault = (response, _, request) => response.writeHead(302, { location: request.url }).end();
      hub.fault(...Array.from({ length: 10 }, () => around));
      await refused(/redirects without an end/);
    });
  });

  describe('refusals', () => {
    it('of the server say what to do', async () => {
      server.apiStatuses.push({ status: 404, headers: { 'x-error-message': 'Invalid rev id' } });
      await assert.rejects(pull(`${SOURCE}@no`, options), fails('MODEL_NOT_FOUND', /404.*Invalid rev id.*revision/));
      for (const code of [401, 403]) {
        server.apiStatuses.push({ status: code });
        await assert.rejects(pull(SOURCE, options), fails('ACCESS_DENIED', /HF_TOKEN/));
      }
      server.apiStatuses.push({ status: 400 });
      await assert.rejects(pull(SOURCE, options), fails('DOWNLOAD_FAILED', /400/));
      assert.equal(server.log.length, 4, 'none of them is tried again');
    });

    it('of sources that are none', () => {
      assert.deepEqual(parseHubSource('hf:a-b/c.d_1@refs/pr/3'), {
        repository: 'a-b/c.d_1',
        path: undefined,
        revision: 'refs/pr/3',
      });
      assert.deepEqual(parseHubSource('hf:a/b/c/d.pth@v1'), { repository: 'a/b', path: 'c/d.pth', revision: 'v1' });
      for (const source of [
        'hf:',
        'hf:a',
        'hf:a/b/../c',
        'hf:a/b/',
        'hf:../b',
        'hf:a/..',
        'hf:a--b/c',
        'hf:a/b@',
        'hf:a/b@../../x',
        'hf:a/b@x//y',
        'hf:.a/b',
        'a/b',
      ])
        assert.throws(() => parseHubSource(source), fails('INVALID_ARGUMENT', /hf:organisation/), source);
    });

    it('of options that mean nothing', async () => {
      for (const wrong of [
        { retries: -1 },
        { stall: 0 },
        { backoff: Number.NaN },
        { include: [''] },
        { endpoint: 'ftp://x' },
        { token: 'a b' },
      ])
        await assert.rejects(
          pull(SOURCE, { ...options, ...wrong }),
          fails('INVALID_ARGUMENT', /./),
          JSON.stringify(wrong),
        );
    });
  });

  describe('abort', () => {
    it('rejects with its reason and keeps what arrived', async () => {
      hub.fault(stallAfter(150_000));
      const controller = new AbortController();
      const reason = new Error('enough');
      const onProgress: PullOptions['onProgress'] = ({ file, bytes }) => {
        if (file.startsWith('transformer') && bytes >= 150_000) controller.abort(reason);
      };
      await assert.rejects(
        pull(SOURCE, { ...options, stall: 60, signal: controller.signal, onProgress }),
        (error) => error === reason,
      );
      assert.equal((await stat(`${cache.blob(sha256(WEIGHTS))}.pull.incomplete`)).size, 150_000);
      await assert.rejects(pull(SOURCE, { ...options, signal: controller.signal }), (error) => error === reason);
      assert.ok((await pull(SOURCE, options)).downloaded <= 150_010);
      assert.ok((await hub.pulledWeights()).equals(WEIGHTS));
    });

    it('ends a pause', async () => {
      server.apiStatuses.push({ status: 503, headers: { 'retry-after': '3600' } });
      const signal = AbortSignal.timeout(100);
      await assert.rejects(pull(SOURCE, { ...options, signal }), (error) => error === signal.reason);
    });
  });
});
