// One hash over a set of files and folders: what a build was made from.
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

/** Files under `entry` (a file or a folder, relative to `root`), sorted, as '/'-separated relative paths. */
function filesUnder(root, entry, leaveOut) {
  if (leaveOut.includes(entry)) return [];
  const stat = statSync(join(root, entry), { throwIfNoEntry: false });
  if (!stat) return [];
  if (stat.isFile()) return [entry];
  return readdirSync(join(root, entry))
    .sort()
    .flatMap((name) => filesUnder(root, `${entry}/${name}`, leaveOut));
}

/** SHA-256 over names and contents, without `leaveOut`; `salt` holds whatever else the result depends on. */
export function sourceHash(root, entries, { salt = '', leaveOut = [] } = {}) {
  const hash = createHash('sha256').update(salt);
  for (const file of entries.flatMap((entry) => filesUnder(root, entry, leaveOut))) {
    hash.update(`\0${file}\0`).update(readFileSync(join(root, file)));
  }
  return hash.digest('hex');
}
