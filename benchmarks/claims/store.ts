/** Records of measured cells in a file that is only ever appended to: a kill loses the cell that was running. */
import { createHash } from 'node:crypto';
import { appendFile, mkdir, readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Cell, Config, Experiment, Values } from './experiment.js';

/** A line of the file. */
export interface Record {
  readonly key: string;
  readonly experiment: string;
  readonly version: number;
  readonly config: Config;
  readonly values: Values;
  /** How long the cell took, models that it trained included. */
  readonly seconds: number;
  /** Time on processors in it, which other work on the machine hardly changes. */
  readonly cpuSeconds: number;
  /** Revision, processor, cores, instruction set, load. */
  readonly machine: Readonly<{ [name: string]: string | number }>;
}

/** The digest of any plain data, independent of the order of its fields. */
export function digest(data: unknown): string {
  const sorted = JSON.stringify(data, (_, value: unknown) =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value,
  );
  return createHash('sha256').update(sorted).digest('hex').slice(0, 16);
}

/** The name of a cell: what it measures, not when or where. */
export function cellKey({ name, version }: Experiment, { config }: Cell): string {
  return digest({ name, version, config });
}

function parse(line: string): Record | undefined {
  try {
    const record = JSON.parse(line) as Partial<Record> | null;
    return typeof record?.key === 'string' && record.values !== undefined ? (record as Record) : undefined;
  } catch {
    return undefined;
  }
}

/** The records of one output directory by key. */
export class Store {
  private constructor(
    private readonly path: string,
    private readonly records: Map<string, Record>,
    private torn: boolean,
  ) {}

  /** A last line that a kill cut short is passed over: its cell is measured again. */
  static async open(path: string): Promise<Store> {
    await mkdir(dirname(path), { recursive: true });
    const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return '';
      throw error;
    });
    const records = text.split('\n').flatMap((line) => parse(line) ?? []);
    return new Store(path, new Map(records.map((record) => [record.key, record])), text !== '' && !text.endsWith('\n'));
  }

  get(key: string): Record | undefined {
    return this.records.get(key);
  }

  async add(record: Record): Promise<void> {
    await appendFile(this.path, `${this.torn ? '\n' : ''}${JSON.stringify(record)}\n`);
    this.torn = false;
    this.records.set(record.key, record);
  }
}
