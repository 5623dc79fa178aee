/**
 * A repository in the cache that the Hugging Face tools share: `blobs/<digest>` hold content, `snapshots/<commit>/<path>` point
 * at it, `refs/<revision>` name commits. Source: huggingface_hub, "Understand caching".
 */
import { randomBytes } from 'node:crypto';
import { constants, copyFile, lstat, mkdir, readFile, readlink, rename, stat, symlink, unlink } from 'node:fs/promises';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { writeError, writeOutput } from '../output_file.js';
import { isCommit } from './source.js';

/** Systems and file systems without symbolic links answer with one of these. */
const NO_LINKS = ['EPERM', 'EACCES', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP', 'EINVAL', 'UNKNOWN'];

const FOLDER_PREFIX = 'models--';
const SEPARATOR = '--';

/** "organisation/repository" of a folder that is a snapshot in a cache, or undefined. */
export function repositoryOf(directory: string): string | undefined {
  const [folder = '', snapshots, commit = ''] = resolve(directory).split(sep).slice(-3);
  if (snapshots !== 'snapshots' || !isCommit(commit) || !folder.startsWith(FOLDER_PREFIX)) return undefined;
  return folder.slice(FOLDER_PREFIX.length).replace(SEPARATOR, '/');
}

export class RepositoryCache {
  readonly directory: string;

  /** @param repository "organisation/repository", checked by `parseHubSource` */
  constructor(
    private readonly root: string,
    repository: string,
    private readonly makeLink: (target: string, path: string) => Promise<void> = symlink,
  ) {
    this.directory = join(root, FOLDER_PREFIX + repository.replace('/', SEPARATOR));
  }

  /** Path of the content with this digest (40 or 64 hexadecimal digits). */
  blob(digest: string): string {
    return join(this.directory, 'blobs', digest);
  }

  snapshot(commit: string): string {
    return join(this.directory, 'snapshots', commit);
  }

  /** Lock file of one digest; the other tools lock files of other names. */
  lock(digest: string): string {
    return join(this.root, '.locks', relative(this.root, this.directory), `${digest}.pull.lock`);
  }

  /** Whether the content is there, whole. A blob has its name only after its digest was found right. */
  async holds(digest: string, bytes: number): Promise<boolean> {
    const found = await stat(this.blob(digest)).catch(() => undefined);
    return found?.isFile() === true && found.size === bytes;
  }

  /** The commit that a revision meant when it was last pulled, or undefined. */
  async commitOf(revision: string): Promise<string | undefined> {
    if (isCommit(revision)) return revision;
    const text = await readFile(join(this.directory, 'refs', revision), 'utf8').catch(() => '');
    return isCommit(text.trim()) ? text.trim() : undefined;
  }

  async writeReference(revision: string, commit: string): Promise<void> {
    if (isCommit(revision)) return;
    const path = join(this.directory, 'refs', revision);
    await mkdir(dirname(path), { recursive: true }).catch((error) => Promise.reject(writeError(path, error)));
    await writeOutput(path, [Buffer.from(commit)]);
  }

  /**
   * Puts the content with `digest` at `path` of a snapshot: a relative link, or a copy where links cannot be made.
   *
   * @param path checked by `listFiles`: relative, and inside
   */
  async place(digest: string, commit: string, path: string): Promise<void> {
    const target = join(this.snapshot(commit), path);
    const content = relative(dirname(target), this.blob(digest));
    const temporary = join(dirname(target), `.${randomBytes(6).toString('hex')}.tmp`);
    try {
      await mkdir(dirname(target), { recursive: true });
      if (await this.stands(target, content, digest)) return;
      try {
        await this.makeLink(content, temporary);
      } catch (error) {
        if (!NO_LINKS.includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
        await copyFile(this.blob(digest), temporary, constants.COPYFILE_FICLONE);
      }
      await rename(temporary, target);
    } catch (error) {
      await unlink(temporary).catch(() => undefined);
      throw writeError(target, error);
    }
  }

  /** True when the place is taken by the right link, or by a copy of the right size. */
  private async stands(target: string, content: string, digest: string): Promise<boolean> {
    const found = await lstat(target).catch(() => undefined);
    if (found?.isSymbolicLink()) return (await readlink(target)) === content;
    return found?.isFile() === true && found.size === (await stat(this.blob(digest))).size;
  }
}
