/** Pictures of one size side by side. */
import { invalidArgument } from '../errors.js';
import type { Pixels } from './pixels.js';

/** Pixels between two pictures, and their grey. */
const GAP = 2;
const GREY = 128;

/**
 * Rows of pictures with a thin line between them; places that a shorter row leaves are grey.
 * @throws InfinityError INVALID_ARGUMENT unless there is a picture and all are of one size
 */
export function pictureGrid(rows: readonly (readonly Pixels[])[]): Pixels {
  const first = rows[0]?.[0];
  if (!first || rows.flat().some((p) => p.width !== first.width || p.height !== first.height))
    return invalidArgument('the pictures of a grid', 'one or more of one size', rows.length);
  const columns = Math.max(...rows.map((row) => row.length));
  const [width, height] = [columns * (first.width + GAP) - GAP, rows.length * (first.height + GAP) - GAP];
  const data = new Uint8Array(width * height * 3).fill(GREY);
  for (const [r, row] of rows.entries())
    for (const [c, picture] of row.entries())
      for (let y = 0; y < picture.height; y++) {
        const line = picture.data.subarray(y * picture.width * 3, (y + 1) * picture.width * 3);
        data.set(line, ((r * (first.height + GAP) + y) * width + c * (first.width + GAP)) * 3);
      }
  return { width, height, data };
}
