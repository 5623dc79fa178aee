/** Photos that are not part of the repository: NODE_INFINITY_PHOTOS names their folder. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';

/** Absolute path of a photo, or undefined when it is not at hand. */
export function photoPath(name: string): string | undefined {
  const folder = process.env.NODE_INFINITY_PHOTOS;
  const path = folder && join(folder, name);
  return path && existsSync(path) ? path : undefined;
}
