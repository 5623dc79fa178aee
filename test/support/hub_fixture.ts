/** A cache and a hub that serves one small and one large file. */
import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { InfinityError, type InfinityErrorCode } from '../../lib/errors.js';
import { RepositoryCache } from '../../lib/io/hub/cache.js';
import type { PullOptions } from '../../lib/io/hub/index.js';
import { COMMIT, type Fault, HubServer } from './hub_server.js';
import { randomArray } from './numeric.js';

export const SOURCE = 'hf:org/repo';
export const README = Buffer.from('# A model\n');
const WEIGHTS_PATH = 'transformer/model.safetensors';

export function noise(seed: number, bytes: number): Buffer {
  return Buffer.from(Float64Array.from(randomArray(seed, Math.ceil(bytes / 8), 1)).buffer).subarray(0, bytes);
}

export const WEIGHTS = noise(1, 300_000);

export class HubFixture {
  readonly cache: RepositoryCache;
  readonly options: PullOptions;

  private constructor(
    readonly server: HubServer,
    readonly root: string,
  ) {
    const { endpoint } = server;
    this.options = { cacheDirectory: root, endpoint, token: 'secret', backoff: 0.001, stall: 0.3, retries: 3 };
    this.cache = new RepositoryCache(root, 'org/repo');
    server.files.set('README.md', { content: README });
    server.files.set(WEIGHTS_PATH, { content: WEIGHTS, large: true });
  }

  static async start(): Promise<HubFixture> {
    return new HubFixture(await HubServer.start(), await mkdtemp(join(tmpdir(), 'hub-')));
  }

  async stop(): Promise<void> {
    await this.server.stop();
    await rm(this.root, { recursive: true });
  }

  /** What happens to the next requests for the weights. */
  fault(...faults: Fault[]): void {
    this.server.faults.set(WEIGHTS_PATH, faults);
  }

  weightRequests(): string[] {
    return this.server.log.filter((line) => line.startsWith('store'));
  }

  async pulledWeights(): Promise<Buffer> {
    return readFile(join(this.cache.snapshot(COMMIT), WEIGHTS_PATH));
  }

  async blobs(): Promise<string[]> {
    return (await readdir(join(this.cache.directory, 'blobs'))).sort();
  }
}

/** Sends `bytes` of the file, announces all of it, and breaks the connection. */
export const cutOffAfter =
  (bytes: number): Fault =>
  (response, { content }) => {
    response.writeHead(200, { etag: '"first"', 'content-length': content.length });
    response.write(content.subarray(0, bytes), () => setTimeout(() => response.destroy(), 30));
  };

/** Sends `bytes` of the file and then nothing, without closing. */
export const stallAfter =
  (bytes: number): Fault =>
  (response, { content }) => {
    response.writeHead(200, { etag: '"first"', 'content-length': content.length });
    response.write(content.subarray(0, bytes));
  };

export const status =
  (code: number, headers: Record<string, string> = {}): Fault =>
  (response) => {
    response.writeHead(code, headers).end('no');
  };

/** For `assert.rejects`: an InfinityError with this code and message. */
export function fails(code: InfinityErrorCode, pattern: RegExp) {
  return (error: unknown) => {
    assert.ok(error instanceof InfinityError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, pattern);
    return true;
  };
}
