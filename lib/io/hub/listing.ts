/** What a repository holds at a revision. Names, sizes and digests come from a stranger and are checked here. */
import { describe, InfinityError } from '../../errors.js';
import type { HubClient } from './client.js';
import { formatHubSource, type HubSource, isCommit, isSafePath } from './source.js';

export interface HubFile {
  /** Relative, with forward slashes, inside the repository. */
  readonly path: string;
  readonly bytes: number;
  /** The name of the content in the cache. */
  readonly digest: string;
  /** What `digest` is: of the content (large files), or of the content as git stores it. */
  readonly digestOf: 'sha256' | 'git-blob';
}

export interface HubListing {
  readonly commit: string;
  readonly files: readonly HubFile[];
}

const MAX_FILES = 100_000;

function malformed(source: HubSource, what: string, value: unknown): InfinityError {
  return new InfinityError(
    'CHECKPOINT_INVALID',
    `The list of ${formatHubSource(source)} ${what}: ${describe(value)}.`,
    {
      value,
      cure: 'Do not use this repository, or check HF_ENDPOINT.',
    },
  );
}

function parseEntry(entry: unknown, source: HubSource): HubFile | undefined {
  const { type, path, size, oid, lfs } = (entry ?? {}) as Record<string, unknown>;
  if (type !== 'file') return undefined;
  if (!isSafePath(path)) throw malformed(source, 'holds an unsafe name', path);
  const large = lfs === undefined || lfs === null ? undefined : (lfs as Record<string, unknown>);
  const bytes = large?.size ?? size;
  const digest = large ? large.oid : oid;
  if (!Number.isSafeInteger(bytes) || Number(bytes) < 0) throw malformed(source, `has no size for ${path}`, bytes);
  if (typeof digest !== 'string' || !(large ? /^[0-9a-f]{64}$/ : /^[0-9a-f]{40}$/).test(digest))
    throw malformed(source, `has no digest for ${path}`, digest);
  return { path, bytes: Number(bytes), digest, digestOf: large ? 'sha256' : 'git-blob' };
}

async function commitOf(client: HubClient, source: HubSource): Promise<string> {
  const { repository, revision } = source;
  if (isCommit(revision)) return revision;
  const url = `${client.settings.endpoint}/api/models/${repository}/revision/${encodeURIComponent(revision)}`;
  const { sha } = ((await client.page(url)).value ?? {}) as Record<string, unknown>;
  if (typeof sha !== 'string' || !isCommit(sha)) throw malformed(source, 'names no commit', sha);
  return sha;
}

/**
 * The commit of a revision and all of its files.
 *
 * @throws InfinityError MODEL_NOT_FOUND, ACCESS_DENIED, DOWNLOAD_FAILED; CHECKPOINT_INVALID for a list that is malformed or
 *   names files outside the repository
 */
export async function listFiles(client: HubClient, source: HubSource): Promise<HubListing> {
  const commit = await commitOf(client, source);
  const files = new Map<string, HubFile>();
  const visited = new Set<string>();
  let url: string | undefined =
    `${client.settings.endpoint}/api/models/${source.repository}/tree/${commit}?recursive=true`;
  while (url !== undefined && !visited.has(url)) {
    visited.add(url);
    const { value, next } = await client.page(url);
    if (!Array.isArray(value)) throw malformed(source, 'is no list', value);
    for (const entry of value) {
      const file = parseEntry(entry, source);
      if (file) files.set(file.path, file);
    }
    if (files.size > MAX_FILES) throw malformed(source, `is longer than ${MAX_FILES} files`, files.size);
    url = next;
  }
  return { commit, files: [...files.values()] };
}

/** Address of a file at a commit. */
export function fileAddress(endpoint: string, { repository }: HubSource, commit: string, path: string): string {
  return `${endpoint}/${repository}/resolve/${commit}/${path.split('/').map(encodeURIComponent).join('/')}`;
}

/** The files at a path: the file itself, or all of a folder. */
export function filesAt(files: readonly HubFile[], path: string | undefined): readonly HubFile[] {
  return path === undefined ? files : files.filter((file) => file.path === path || file.path.startsWith(`${path}/`));
}

/** Files that one of the patterns takes: `*` is any run of characters, `?` one, a folder's name with a slash all in it. */
export function selectFiles(files: readonly HubFile[], patterns: readonly string[]): HubFile[] {
  if (patterns.length === 0) return [...files];
  const expressions = patterns.map((pattern) => {
    const source = (pattern.endsWith('/') ? `${pattern}*` : pattern)
      .replace(/[\\^$.+()[\]{}|]/g, '\\$&')
      .replace(/\*+/g, '.*')
      .replaceAll('?', '.');
    return new RegExp(`^${source}$`, 'su');
  });
  return files.filter(({ path }) => expressions.some((expression) => expression.test(path)));
}
