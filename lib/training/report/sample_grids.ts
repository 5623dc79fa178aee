/** The sample grids of a run: `samples/step-<step>.png` in its directory. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { readPngMetadata } from '../../io/png_metadata.js';

/** Pictures that a run drew at one step. */
export interface SampleGrid {
  readonly step: number;
  readonly width: number;
  readonly height: number;
  readonly png: Buffer;
  /** Pictures of a row. */
  readonly columns: number;
  readonly prompts?: readonly string[];
}

const NAME = /^step-(\d+)\.png$/;
/** Grids that a page shows: a large run has more than anyone looks at. */
const SHOWN = 12;
/** Where PNG's header holds width and height. */
const [WIDTH_AT, HEIGHT_AT] = [16, 20];

/** Where the grid of a step goes. */
export function sampleGridPath(directory: string, step: number): string {
  return join(directory, 'samples', `step-${String(step).padStart(8, '0')}.png`);
}

/** `count` items of a list at equal distances, its first and its last among them. */
function spread<T>(items: readonly T[], count: number): T[] {
  if (items.length <= count) return [...items];
  return Array.from({ length: count }, (_, i) => items[Math.round((i * (items.length - 1)) / (count - 1))]!);
}

/** The grids of a run up to `lastStep`, thinned, the newest first; files that are no grid of ours are passed over. */
export async function readSampleGrids(directory: string, lastStep: number): Promise<SampleGrid[]> {
  const folder = join(directory, 'samples');
  const names = await readdir(folder).catch((): string[] => []);
  const steps = names.flatMap((name) => (NAME.test(name) ? [{ name, step: Number(NAME.exec(name)![1]) }] : []));
  const wanted = steps.filter(({ step }) => step <= lastStep).sort((a, b) => b.step - a.step);
  const grids: SampleGrid[] = [];
  for (const { name, step } of spread(wanted, SHOWN)) {
    const png = await readFile(join(folder, name));
    const grid = describe(png);
    if (grid) grids.push({ step, png, ...grid });
  }
  return grids;
}

function describe(png: Buffer): Omit<SampleGrid, 'step' | 'png'> | undefined {
  let samples: unknown;
  try {
    samples = readPngMetadata(png)?.samples;
  } catch {
    return undefined;
  }
  if (typeof samples !== 'object' || samples === null) return undefined;
  const { columns, prompts } = samples as { columns?: unknown; prompts?: unknown };
  if (!Number.isSafeInteger(columns)) return undefined;
  return {
    width: png.readUInt32BE(WIDTH_AT),
    height: png.readUInt32BE(HEIGHT_AT),
    columns: columns as number,
    ...(Array.isArray(prompts) ? { prompts: prompts.map(String) } : {}),
  };
}
