/** `pull`: a repository of a hub into the cache, and from the cache to a folder that a pipeline opens. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { InfinityError, invalidArgument } from '../../errors.js';
import { downloadBlob } from './blob.js';
import { RepositoryCache } from './cache.js';
import { HubClient } from './client.js';
import { fileAddress, filesAt, type HubFile, type HubListing, listFiles, selectFiles } from './listing.js';
import { withLock } from './lock.js';
import type { RetryPolicy } from './retry.js';
import { type HubLocation, hubCacheDirectory, hubSettings } from './settings.js';
import { formatHubSource, type HubSource, isHubSource, parseHubSource } from './source.js';

export interface PullProgress {
  /** The file that moved. */
  readonly file: string;
  /** Bytes of all files that are there, and that there will be. */
  readonly bytes: number;
  readonly of: number;
}

export interface PullOptions extends HubLocation {
  /** Only files that one of these patterns takes (`*`, `?`, `folder/`). Default: all. */
  readonly include?: readonly string[];
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: PullProgress) => void;
  /** Failures in a row that are forgiven. Default 5. */
  readonly retries?: number;
  /** Seconds before the first new attempt; doubles up to 30. Default 0.5. */
  readonly backoff?: number;
  /** Seconds of silence after which a connection counts as lost. Default 30. */
  readonly stall?: number;
}

export interface PullResult {
  /** Folder of the snapshot: what `fromPretrained` opens. */
  readonly directory: string;
  readonly commit: string;
  /** Names of the files that were asked for; without a network, none are listed. */
  readonly files: readonly string[];
  /** Their size together, and how much of it was not there before. */
  readonly bytes: number;
  readonly downloaded: number;
}

/** Files that are downloaded at one time: one connection seldom fills a line. */
const PARALLEL = 4;

function notCached(source: HubSource, what: string): InfinityError {
  const name = formatHubSource(source);
  return new InfinityError('MODEL_NOT_FOUND', `There is no ${what} of ${name} in the cache.`, {
    value: name,
    cure: `Run "node-infinity pull ${name}" first.`,
  });
}

async function cachedSnapshot(source: HubSource, cacheDirectory: string) {
  const cache = new RepositoryCache(cacheDirectory, source.repository);
  const commit = await cache.commitOf(source.revision);
  if (commit === undefined) throw notCached(source, 'snapshot');
  const directory = cache.snapshot(commit);
  const found = join(directory, source.path ?? '');
  if (!(await stat(found).catch(() => undefined))) throw notCached(source, `snapshot ${commit}`);
  return { directory, found, commit };
}

function policyOf({ retries = 5, backoff = 0.5, stall = 30 }: PullOptions): RetryPolicy {
  if (!Number.isInteger(retries) || retries < 0) invalidArgument('retries', 'an integer from 0', retries);
  if (!(backoff >= 0 && backoff <= 3600)) invalidArgument('backoff', 'seconds from 0 to 3600', backoff);
  if (!(stall > 0 && stall <= 3600)) invalidArgument('stall', 'seconds above 0, up to 3600', stall);
  return { retries, backoff: backoff * 1000, stall: stall * 1000 };
}

function checkPatterns(include: unknown): asserts include is readonly string[] {
  if (!Array.isArray(include) || include.some((pattern) => typeof pattern !== 'string' || pattern === ''))
    invalidArgument('include', 'a list of patterns', include, 'Write them as ["*.safetensors", "vae/"].');
}

class Pull {
  private readonly cache: RepositoryCache;
  private readonly there = new Map<string, number>();
  private readonly total: number;
  downloaded = 0;

  constructor(
    private readonly client: HubClient,
    private readonly source: HubSource,
    private readonly commit: string,
    private readonly files: readonly HubFile[],
    private readonly onProgress: PullOptions['onProgress'],
  ) {
    this.cache = new RepositoryCache(client.settings.cacheDirectory, source.repository);
    this.total = files.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  async run(): Promise<string> {
    const waiting = [...this.files];
    const stop = new AbortController();
    const signal = this.client.signal ? AbortSignal.any([this.client.signal, stop.signal]) : stop.signal;
    const client = new HubClient(this.client.settings, this.client.policy, signal);
    const worker = async () => {
      for (let file = waiting.shift(); file; file = waiting.shift()) await this.fetch(client, file);
    };
    const workers = Array.from({ length: PARALLEL }, () =>
      worker().catch((error) => {
        // The first failure ends the others; what they have is kept.
        if (!stop.signal.aborted) stop.abort(error);
      }),
    );
    await Promise.all(workers);
    this.client.signal?.throwIfAborted();
    stop.signal.throwIfAborted();
    // Last, so that a revision names a snapshot that is complete.
    await this.cache.writeReference(this.source.revision, this.commit);
    return this.cache.snapshot(this.commit);
  }

  private async fetch(client: HubClient, file: HubFile): Promise<void> {
    const { digest, path, bytes } = file;
    const { cache } = this;
    client.signal?.throwIfAborted();
    if (!(await cache.holds(digest, bytes)))
      await withLock(cache.lock(digest), { signal: client.signal }, async () => {
        // Another process may have finished while this one waited.
        if (await cache.holds(digest, bytes)) return;
        const url = fileAddress(client.settings.endpoint, this.source, this.commit, path);
        let before: number | undefined;
        await downloadBlob(client, url, file, cache.blob(digest), (there) => {
          before ??= there;
          this.report(path, there);
        });
        this.downloaded += bytes - (before ?? 0);
      });
    await cache.place(digest, this.commit, path);
    this.report(path, bytes);
  }

  private report(file: string, there: number): void {
    this.there.set(file, there);
    let bytes = 0;
    for (const part of this.there.values()) bytes += part;
    this.onProgress?.({ file, bytes, of: this.total });
  }
}

function contentsOf({ files }: HubListing): string {
  const names = files.slice(0, 8).map(({ path }) => path);
  return `It holds ${names.join(', ')}${files.length > 8 ? ', ...' : ''}.`;
}

function absentPath(listing: HubListing, source: HubSource): InfinityError {
  return new InfinityError('MODEL_NOT_FOUND', `There is nothing at ${formatHubSource(source)}.`, {
    value: source.path,
    cure: contentsOf(listing),
  });
}

function chosenFiles(listing: HubListing, source: HubSource, include: readonly string[]): HubFile[] {
  const there = filesAt(listing.files, source.path);
  if (there.length === 0 && source.path !== undefined) throw absentPath(listing, source);
  const files = selectFiles(there, include);
  if (files.length === 0) {
    invalidArgument('include', 'patterns that take a file of the repository', include, contentsOf(listing));
  }
  return files;
}

/**
 * Downloads a repository of a hub into the cache that the Hugging Face tools share. Broken downloads go on where they
 * stopped, in this call and in later ones; every file is verified by length and digest before it gets its name.
 *
 * @param source "hf:organisation/repository", with "/path" behind it for one file or folder, and "@revision"
 * @throws InfinityError INVALID_ARGUMENT, MODEL_NOT_FOUND, ACCESS_DENIED, DOWNLOAD_FAILED, CHECKPOINT_INVALID (a listing that
 *   is none), IO_ERROR, DISK_FULL; the signal's reason
 */
export async function pull(source: string, options: PullOptions = {}): Promise<PullResult> {
  const { include = [], signal, onProgress } = options;
  const parsed = parseHubSource(source);
  checkPatterns(include);
  const policy = policyOf(options);
  const settings = await hubSettings(options);
  signal?.throwIfAborted();
  if (settings.offline) {
    const { directory, commit } = await cachedSnapshot(parsed, settings.cacheDirectory);
    return { directory, commit, files: [], bytes: 0, downloaded: 0 };
  }
  const client = new HubClient(settings, policy, signal);
  const listing = await listFiles(client, parsed);
  const files = chosenFiles(listing, parsed, include);
  const job = new Pull(client, parsed, listing.commit, files, onProgress);
  const directory = await job.run();
  return {
    directory,
    commit: listing.commit,
    files: files.map(({ path }) => path),
    bytes: files.reduce((sum, { bytes }) => sum + bytes, 0),
    downloaded: job.downloaded,
  };
}

/**
 * The path behind a model's source: for "hf:organisation/repository[/path][@revision]" the snapshot in the cache or what the path
 * names in it, any other source as it is. Asks no network.
 *
 * @throws InfinityError MODEL_NOT_FOUND when it was never pulled, INVALID_ARGUMENT
 */
export async function resolveModelSource(source: string): Promise<string> {
  if (!isHubSource(source)) return source;
  return (await cachedSnapshot(parseHubSource(source), hubCacheDirectory())).found;
}
