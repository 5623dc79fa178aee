/** Picture preparation: Lanczos resize and centre crop. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { loadImage } from '../../../lib/io/image.js';
import { type Pixels, toSignedFloat } from '../../../lib/io/pixels.js';
import { resizeCenterCrop } from '../../../lib/io/resize.js';
import { channelsFirst } from '../array.js';
import { CaseError, type GoldenCase } from '../case.js';

interface Item {
  readonly name: string;
  readonly tgt_h: number;
  readonly tgt_w: number;
  /** Name of a picture in the photos folder; without it the picture is stored in the case. */
  readonly photo?: string;
}

function stored(c: GoldenCase, name: string): Pixels {
  const { shape, data } = c.array(name);
  if (shape.length !== 3 || shape[2] !== 3 || !(data instanceof Uint8Array))
    throw new CaseError(`${name} is no RGB picture`);
  return { height: shape[0]!, width: shape[1]!, data };
}

async function source(c: GoldenCase, { name, photo }: Item): Promise<Pixels | undefined> {
  if (photo === undefined) return stored(c, `in.${name}.image_u8`);
  const path = c.options.photos && join(c.options.photos, photo);
  return path && existsSync(path) ? loadImage(path) : undefined;
}

export async function preprocess(c: GoldenCase): Promise<void> {
  const { config } = c.fields<{ config: { items: readonly Item[] } }>();
  for (const item of config.items) {
    const { name, tgt_h, tgt_w } = item;
    const picture = await source(c, item);
    if (!picture) {
      for (const output of c.names(`out.${name}.*`))
        c.skip(output, `needs the photo ${item.photo}: give its folder with --photos`);
      continue;
    }
    const crop = resizeCenterCrop(picture, tgt_h, tgt_w);
    c.give(`out.${name}.crop_u8`, { shape: [tgt_h, tgt_w, 3], data: crop.data });
    const { data, shape } = channelsFirst({ shape: [1, tgt_h, tgt_w, 3], data: toSignedFloat(crop.data) });
    c.give(`out.${name}.tensor`, { shape: shape.slice(1), data });
  }
}
