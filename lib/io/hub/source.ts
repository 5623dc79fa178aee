/** Names of repositories on a hub, and of files in them: `hf:organisation/repository[/path][@revision]`. */
import { invalidArgument } from '../../errors.js';

export interface HubSource {
  /** "organisation/repository". */
  readonly repository: string;
  /** A file or folder in it; undefined for all of it. */
  readonly path: string | undefined;
  /** A branch, a tag, a reference such as refs/pr/3, or the 40 digits of a commit. */
  readonly revision: string;
}

const SCHEME = 'hf:';
const DEFAULT_REVISION = 'main';
/** Names become folder names: no leading dot, and no "--", which separates the parts there. */
const NAME = /^(?!.*(?:--|\.\.))[A-Za-z0-9_][\w.-]{0,95}$/;
const REVISION = /^[A-Za-z0-9_][\w.+-]*(?:\/[A-Za-z0-9_][\w.+-]*)*$/;
const COMMIT = /^[0-9a-f]{40}$/;

/** True for the digits of a whole commit, which can never come to mean something else. */
export function isCommit(revision: string): boolean {
  return COMMIT.test(revision);
}

/** Relative, plain on every system, and nothing that leaves the folder. */
export function isSafePath(path: unknown): path is string {
  if (typeof path !== 'string' || path.length > 1000 || /[\\:\p{Cc}]/u.test(path)) return false;
  return path.split('/').every((part) => part !== '' && !/^\.{1,2}$|[ .]$/.test(part) && part.length <= 255);
}

/** True when a model's source names a repository on a hub rather than a folder. */
export function isHubSource(source: string): boolean {
  return source.startsWith(SCHEME);
}

/** @throws InfinityError INVALID_ARGUMENT */
export function parseHubSource(source: string): HubSource {
  const match = typeof source === 'string' ? /^hf:([^/@]+)\/([^/@]+)(?:\/([^@]+))?(?:@(.+))?$/.exec(source) : null;
  const [, organisation, name, path, revision = DEFAULT_REVISION] = match ?? [];
  const named = organisation && name && NAME.test(organisation) && NAME.test(name);
  const dated = REVISION.test(revision) && !/\.\.|\.lock(\/|$)/.test(revision) && revision.length <= 200;
  if (!named || !dated || (path !== undefined && !isSafePath(path)))
    invalidArgument('the source', `"${SCHEME}organisation/repository", with /path or @revision behind it`, source);
  return { repository: `${organisation}/${name}`, path, revision };
}

/** The way a source is written. */
export function formatHubSource({ repository, path, revision }: HubSource): string {
  return `${SCHEME}${repository}${path === undefined ? '' : `/${path}`}${revision === DEFAULT_REVISION ? '' : `@${revision}`}`;
}
