/** One process at a time: a lock file that dies with its owner. */
import { randomBytes } from 'node:crypto';
import { link, mkdir, open, readFile, rename, stat, unlink, utimes } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** A living owner touches its lock this often. */
const HEARTBEAT = 5_000;
/** A lock that is watched for this long without being touched has lost its owner. */
const PATIENCE = 30_000;
const POLL = 200;

interface Owner {
  readonly host: string;
  readonly pid: number;
  readonly id: string;
}

interface Sight {
  readonly text: string;
  readonly touched: number;
}

async function look(path: string): Promise<Sight | undefined> {
  try {
    return { text: await readFile(path, 'utf8'), touched: (await stat(path)).mtimeMs };
  } catch {
    return undefined;
  }
}

/** True when the owner was a process of this machine that has ended. */
function hasEnded(text: string): boolean {
  try {
    const { host, pid } = JSON.parse(text) as Partial<Owner>;
    if (host !== hostname() || !Number.isSafeInteger(pid) || Number(pid) < 1) return false;
    process.kill(Number(pid), 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}

/** Removes a lock that was judged dead, unless another process was faster and holds it by now. */
async function breakLock(path: string, judged: string): Promise<void> {
  const aside = `${path}.${randomBytes(6).toString('hex')}`;
  try {
    await rename(path, aside);
  } catch {
    return;
  }
  if ((await look(aside))?.text !== judged) await link(aside, path).catch(() => undefined);
  await unlink(aside).catch(() => undefined);
}

async function create(path: string, owner: string): Promise<boolean> {
  try {
    const file = await open(path, 'wx');
    await file.writeFile(owner).finally(() => file.close());
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

async function acquire(path: string, owner: string, options: LockOptions): Promise<void> {
  const { signal, patience = PATIENCE, onWait } = options;
  let last: Sight | undefined;
  let since = performance.now();
  while (!(await create(path, owner))) {
    const sight = await look(path);
    if (sight?.text !== last?.text || sight?.touched !== last?.touched) since = performance.now();
    last = sight;
    // Times are compared with themselves only: the clock of a file server may be another one.
    const silent = performance.now() - since > patience;
    if (sight && (silent || hasEnded(sight.text))) await breakLock(path, sight.text);
    else {
      onWait?.();
      await sleep(Math.min(POLL, patience), undefined, { signal }).catch(() => signal?.throwIfAborted());
    }
  }
}

export interface LockOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called at every look at a lock that somebody else holds. */
  readonly onWait?: () => void;
  /** Milliseconds after which an untouched lock counts as left behind. */
  readonly patience?: number;
}

/** Runs `work` while holding the lock file `path`; waits for a living owner, takes over from a dead one. */
export async function withLock<T>(path: string, options: LockOptions, work: () => Promise<T>): Promise<T> {
  const owner: Owner = { host: hostname(), pid: process.pid, id: randomBytes(8).toString('hex') };
  const text = JSON.stringify(owner);
  await mkdir(dirname(path), { recursive: true });
  await acquire(path, text, options);
  const heartbeat = setInterval(() => {
    const now = new Date();
    utimes(path, now, now).catch(() => undefined);
  }, HEARTBEAT).unref();
  try {
    return await work();
  } finally {
    clearInterval(heartbeat);
    if ((await look(path))?.text === text) await unlink(path).catch(() => undefined);
  }
}
