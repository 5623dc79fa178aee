/** Names of repositories on a hub: `hf:organisation/repository[@revision]`. */
import { invalidArgument } from '../../errors.js';

export interface HubSource {
  /** "organisation/repository". */
  readonly repository: string;
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

/** True when a model's source names a repository on a hub rather than a folder. */
export function isHubSource(source: string): boolean {
  return source.startsWith(SCHEME);
}

/** @throws InfinityError INVALID_ARGUMENT */
export function parseHubSource(source: string): HubSource {
  const match = typeof source === 'string' ? /^hf:([^/@]+)\/([^/@]+)(?:@(.+))?$/.exec(source) : null;
  const [, organisation, name, revision = DEFAULT_REVISION] = match ?? [];
  const valid = organisation && name && NAME.test(organisation) && NAME.test(name);
  if (!valid || !REVISION.test(revision) || /\.\.|\.lock(\/|$)/.test(revision) || revision.length > 200)
    invalidArgument(
      'the source',
      `"${SCHEME}organisation/repository" or "${SCHEME}organisation/repository@revision"`,
      source,
    );
  return { repository: `${organisation}/${name}`, revision };
}

/** The way a source is written. */
export function formatHubSource({ repository, revision }: HubSource): string {
  return `${SCHEME}${repository}${revision === DEFAULT_REVISION ? '' : `@${revision}`}`;
}
